// SPDX-License-Identifier: Apache-2.0
// Every score row against the scalar steps of kernels/score/score.h, bit for bit; tanh against double.
#include "kernels/score/score.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <limits>

#include "tests/kernels/elements.h"
#include "tests/kernels/exp2_model.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

using kernels::Element;
using kernels::ScoreKernel;
using kernels::ScoreTerms;

// The steps of score.h for one score.
float model(kernels::Isa isa, const ScoreTerms& terms, float s, const void* bias, const std::uint8_t* mask,
            float slope, std::int32_t position, std::int64_t j, float scale) {
  s *= scale;
  if (terms.softcap != 0.0f) s = tanh_model(isa, s) * terms.softcap;
  if (terms.has_bias)
    s = std::fma(kernels::load_element(terms.bias_element, bias, j * terms.bias_stride), kernels::kLog2e, s);
  if (terms.has_alibi)
    s = std::fma(slope, static_cast<float>(std::abs(position - static_cast<std::int32_t>(j))), s);
  if (terms.has_mask && mask[j * terms.mask_stride] == 0) s = -std::numeric_limits<float>::infinity();
  return s;
}

struct Score : RowTest<ScoreKernel> {
  Random random{test_seed(91)};

  // Bias and mask of one query: `keys` elements `stride` apart, ending flush against the guard page.
  struct Query {
    ElementOperand bias;
    Operand<std::uint8_t> mask;
  };
  Query query(const ScoreTerms& terms, std::int64_t keys, Place place) {
    const auto span = [&](std::int64_t stride) { return sz((keys - 1) * stride + 1); };
    Query q{ElementOperand(terms.bias_element, span(terms.bias_stride), place),
            Operand<std::uint8_t>(span(terms.mask_stride), place)};
    for (std::size_t i = 0; i < q.bias.size(); ++i)
      q.bias.set(i, random.one_in(20) ? -std::numeric_limits<float>::infinity() : 3 * random.normal());
    for (std::uint8_t& m : q.mask.span())
      m = static_cast<std::uint8_t>(random.one_in(2) ? 0 : random.between(1, 255));
    return q;
  }
  float score() {
    return random.one_in(30)   ? std::numeric_limits<float>::quiet_NaN()
           : random.one_in(30) ? -std::numeric_limits<float>::infinity()
                               : 2 * random.normal();
  }
  ScoreTerms terms() {
    ScoreTerms t;
    t.softcap = random.one_in(2) ? 0.0f : 20.0f;
    t.has_bias = random.one_in(2);
    t.has_alibi = random.one_in(2);
    t.has_mask = random.one_in(2);
    t.bias_element = random.pick({Element::f32, Element::bf16, Element::f16});
    t.bias_stride = random.pick<std::int64_t>({1, 1, 0, 5});
    t.mask_stride = random.pick<std::int64_t>({1, 1, 0, 3});
    return t;
  }
};

TEST_P(Score, TileFollowsTheStatedSteps) {
  for (int repeat = 0; repeat < thinned(300, 60, 20); ++repeat) {
    const ScoreTerms t = terms();
    const std::int64_t nr = random.between(1, 3) * row.lanes, kv = random.between(1, 70);
    const Place place = random.pick({Place::front, Place::back, Place::misaligned});
    SCOPED_TRACE(::testing::Message() << row.name << " nr " << nr << " kv " << kv << " bias stride "
                                      << t.bias_stride << " mask stride " << t.mask_stride);
    std::vector<Query> queries;
    std::vector<const void*> bias;
    std::vector<const std::uint8_t*> mask;
    Operand<float> s(sz(kv * nr), place), want(sz(kv * nr), place), slope(sz(nr), place);
    Operand<std::int32_t> position(sz(nr), place);
    for (std::int64_t n = 0; n < nr; ++n) queries.push_back(query(t, kv, place));
    for (std::size_t n = 0; n < sz(nr); ++n) {
      bias.push_back(queries[n].bias.data());
      mask.push_back(queries[n].mask.data());
      slope[n] = -random.normal();
      position[n] = static_cast<std::int32_t>(random.one_in(9) ? 2'000'000'000 : random.between(-50, 200));
    }
    for (std::size_t i = 0; i < s.size(); ++i) s[i] = want[i] = score();
    const float scale = random.pick({1.0f, 0.3f, 2.5f});
    row.tile({s.data(), kv, nr, &t, bias.data(), mask.data(), slope.data(), position.data(), scale});
    for (std::size_t i = 0; i < want.size(); ++i) {
      const std::size_t n = i % sz(nr);
      want[i] = model(row.isa, t, want[i], bias[n], mask[n], slope[n], position[n],
                      static_cast<std::int64_t>(i) / nr, scale);
    }
    for (std::size_t i = 0; i < s.size(); ++i)
      ASSERT_TRUE(same_value(s[i], want[i])) << "element " << i << ": " << s[i] << ", want " << want[i];
    ASSERT_TRUE(s.intact());
  }
}

TEST_P(Score, RowIsALaneOfTheTile) {
  for (int repeat = 0; repeat < thinned(300, 300, 60); ++repeat) {
    const ScoreTerms t = terms();
    const std::int64_t kv = random.between(1, 130), room = (kv + row.lanes - 1) / row.lanes * row.lanes;
    const Place place = random.pick({Place::front, Place::back, Place::misaligned});
    const Query q = query(t, kv, place);
    const float slope = -random.normal();
    const auto position = static_cast<std::int32_t>(random.between(-50, 300));
    Operand<float> s(sz(room), place), want(sz(room), place);
    for (std::size_t i = 0; i < s.size(); ++i) s[i] = want[i] = score();
    const float scale = random.pick({1.0f, 0.3f, 2.5f});
    row.row({s.data(), kv, &t, q.bias.data(), q.mask.data(), slope, position, scale});
    for (std::int64_t j = 0; j < kv; ++j)
      want[sz(j)] = model(row.isa, t, want[sz(j)], q.bias.data(), q.mask.data(), slope, position, j, scale);
    for (std::size_t i = 0; i < sz(kv); ++i)
      ASSERT_TRUE(same_value(s[i], want[i]))
          << row.name << " element " << i << ": " << s[i] << ", want " << want[i];
    ASSERT_TRUE(s.intact());
  }
}

TEST_P(Score, TanhIsWithinItsBound) {
  double worst = 0;
  float witness = 0;
  std::vector<float> x(1 << 12), y(x.size());
  // Every 13th float, or 793rd: over the binades every residue occurs, with both signs.
  const std::uint32_t step = thinned(13u, 793u, 793u);
  for (std::uint32_t bits = std::bit_cast<std::uint32_t>(0x1p-14f);
       bits < std::bit_cast<std::uint32_t>(16.0f);) {
    for (float& v : x) {
      v = std::bit_cast<float>(bits);
      if (bits & 1) v = -v;
      bits += step;
    }
    row.tanh(x.data(), y.data(), static_cast<std::int64_t>(x.size()));
    for (std::size_t i = 0; i < x.size(); ++i) {
      ASSERT_EQ(y[i], tanh_model(row.isa, x[i])) << x[i];
      const double exact = std::tanh(static_cast<double>(x[i]));
      const double ulp = std::ldexp(1.0, std::ilogb(exact) - 23);
      const double error = std::abs(y[i] - exact) / ulp;
      if (error > worst) worst = error, witness = x[i];
    }
  }
  std::printf("worst error of tanh: %.2f ULP at %a\n", worst, witness);
  EXPECT_LE(worst, uses_fexpa(row.isa) ? 2.08 : 1.9);
}

TEST_P(Score, TanhAtTheEdges) {
  std::vector<float> x = {0.0f,   -0.0f,  kInf, -kInf, std::numeric_limits<float>::quiet_NaN(),
                          1e-40f, -1e30f, 50.0f};
  const std::vector<float> want = {
      0.0f, 0.0f, 1.0f, -1.0f, x[4], kernels::flushes_subnormals(row.isa) ? 0.0f : 1e-40f, -1.0f, 1.0f};
  x.resize(16);
  std::vector<float> y(16);
  row.tanh(x.data(), y.data(), 16);
  for (std::size_t i = 0; i < want.size(); ++i)
    EXPECT_TRUE(same_value(y[i], want[i])) << x[i] << " gave " << y[i];
}

INSTANTIATE_TEST_SUITE_P(Rows, Score, ::testing::ValuesIn(host_rows(kernels::score_kernels())), RowName());

}  // namespace
}  // namespace kumiko::test
