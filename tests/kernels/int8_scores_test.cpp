// SPDX-License-Identifier: Apache-2.0
// Every row of int8_scores against its definition, bit for bit: packing and product together, because what
// panels hold is a row's own affair.
#include "kernels/int8_scores/int8_scores.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/kernels/rows.h"
#include "tests/support/tensor.h"

namespace kumiko::test {
namespace {

using kernels::GemmArgs;
using kernels::Int8ScoresKernel;

std::vector<Int8ScoresKernel> runnable_rows() {
  std::vector<Int8ScoresKernel> rows = host_rows(kernels::int8_scores_kernels());
  std::erase_if(rows, [](const Int8ScoresKernel& row) { return !host_has(row.extension); });
  return rows;
}

struct Int8Scores : RowTest<Int8ScoresKernel> {
  Random random{test_seed(61)};

  struct Problem {
    std::int64_t dim, queries, keys;
    int vectors;
    bool has_maxima, is_extreme;
    Place place;
  };

  void check(const Problem& p) {
    SCOPED_TRACE(::testing::Message()
                 << row.name << " dim " << p.dim << " queries " << p.queries << " keys " << p.keys
                 << " vectors " << p.vectors << " maxima " << p.has_maxima << " extreme " << p.is_extreme
                 << " place " << static_cast<int>(p.place));
    const std::int64_t nr = row.lanes * p.vectors, panels = (p.keys + row.mr - 1) / row.mr,
                       stride = p.dim + random.between(0, 5);
    const auto size = [](std::int64_t n) { return static_cast<std::size_t>(n); };
    // A guard page follows the last row's last dim.
    Operand<std::int8_t> q(size((p.queries - 1) * stride + p.dim), p.place),
        k(size((p.keys - 1) * stride + p.dim), p.place);
    for (const auto& bytes : {q.span(), k.span()}) {
      for (std::int8_t& x : bytes)
        x = p.is_extreme ? random.pick({std::int8_t{-128}, std::int8_t{127}})
                         : static_cast<std::int8_t>(random.between(-128, 127));
    }
    if (p.is_extreme && random.one_in(2)) std::fill(k.span().begin(), k.span().end(), std::int8_t{-128});
    std::vector<const void*> rows;
    for (std::int64_t n = 0; n < p.queries; ++n) rows.push_back(q.data() + n * stride);
    Operand<std::byte> b(size(row.query_bytes(p.dim, nr)), p.place),
        a(size(panels * row.panel_bytes(p.dim)), p.place);
    row.query({rows.data(), p.queries, nr, p.dim, b.data()});
    row.key({k.data(), stride, p.keys, p.dim, a.data()});
    ASSERT_TRUE(a.intact() && b.intact());
    Operand<float> c(size(panels * row.mr * nr), p.place), query(size(nr), p.place),
        key(size(panels * row.mr), p.place), max(size(nr), p.place);
    for (float& x : query.span()) x = 0.01f * random.normal();
    for (float& x : key.span()) x = 0.01f * random.normal();
    if (random.one_in(4)) key[0] = std::numeric_limits<float>::quiet_NaN();
    for (float& x : max.span()) x = random.pick({-std::numeric_limits<float>::infinity(), 0.0f, 3.0f});
    const std::vector<float> before(max.span().begin(), max.span().end());
    std::vector<float> want_max = before;
    const GemmArgs args{a.data(),         row.panel_bytes(p.dim),
                        b.data(),         c.data(),
                        row.steps(p.dim), panels,
                        query.data(),     p.has_maxima ? max.data() : nullptr,
                        key.data()};
    row.tile[p.vectors - 1](&args);
    ASSERT_TRUE(c.intact() && max.intact());
    for (std::int64_t j = 0; j < panels * row.mr; ++j) {
      for (std::int64_t n = 0; n < nr; ++n) {
        std::int32_t sum = 0;
        for (std::int64_t d = 0; d < p.dim && j < p.keys && n < p.queries; ++d)
          sum += q[size(n * stride + d)] * k[size(j * stride + d)];
        // What lanes without a query and rows without a key hold does not matter.
        if (n >= p.queries) continue;
        const float got = c[size(j * nr + n)];
        const float score = static_cast<float>(sum) * (query[size(n)] * key[size(j)]);
        if (j < p.keys) {
          ASSERT_TRUE(same_value(got, score)) << j << ", " << n << ": " << got << " " << score;
        }
        if (got > want_max[size(n)]) want_max[size(n)] = got;
      }
    }
    for (std::int64_t n = 0; n < p.queries; ++n)
      ASSERT_TRUE(same_value(max[size(n)], p.has_maxima ? want_max[size(n)] : before[size(n)])) << n;
  }
};

TEST_P(Int8Scores, EqualTheModelOnRaggedShapes) {
  for (const std::int64_t dim : {1, 2, 3, 4, 5, 15, 16, 17, 31, 33, 64, 67, 96, 128, 191, 576}) {
    for (int draw = 0; draw < sweep_size(12); ++draw) {
      const int vectors = row.tile[2] ? static_cast<int>(random.between(1, 3)) : 1;
      const std::int64_t nr = row.lanes * vectors;
      ASSERT_NO_FATAL_FAILURE(check({dim, random.pick({nr, random.between(1, nr)}),
                                     random.pick<std::int64_t>({1, row.mr, row.lanes, random.between(1, 70)}),
                                     vectors, random.one_in(2), random.one_in(3),
                                     random.pick({Place::front, Place::back, Place::misaligned})}));
    }
  }
}

TEST(Int8ScoresTable, HasTheTileShapesOfProductsOfF32) {
  for (const Int8ScoresKernel& row : kernels::int8_scores_kernels()) {
    if ((kernels::host_isas() & kernels::bit(row.isa)) == 0) continue;
    const Int8ScoresKernel* found = kernels::find_int8_scores(row.isa);
    ASSERT_NE(found, nullptr) << row.name;
    const kernels::GemmKernel* gemm = kernels::find_gemm(row.isa, kernels::Element::f32, row.lanes);
    ASSERT_NE(gemm, nullptr) << row.name;
    EXPECT_EQ(gemm->mr, row.mr) << row.name;
    EXPECT_LE(row.most_lanes(), kernels::kMaxInt8Lanes);
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, Int8Scores, ::testing::ValuesIn(runnable_rows()), RowName());

}  // namespace
}  // namespace kumiko::test
