// SPDX-License-Identifier: Apache-2.0
// Every state row: merges against the scalar order of kernels/state/state.h.
#include "kernels/state/state.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "tests/kernels/exp2_model.h"
#include "tests/kernels/rows.h"
#include "tests/support/random.h"
#include "tests/support/tensor.h"

namespace kumiko::test {
namespace {

using kernels::StateKernel;

struct Scalar {
  float m, l;
  std::vector<float> o;
};

Scalar merged(kernels::Isa isa, const Scalar& into, const Scalar& from) {
  Scalar r = into;
  r.m = std::max(into.m, from.m);
  const float shift = std::isinf(r.m) ? 0.0f : r.m;
  const float a = exp2_model(isa, into.m - shift), b = exp2_model(isa, from.m - shift);
  r.l = std::fma(from.l, b, into.l * a);
  for (std::size_t d = 0; d < r.o.size(); ++d) r.o[d] = std::fma(from.o[d], b, into.o[d] * a);
  return r;
}

Scalar random_state(std::int64_t dim, Random& random) {
  Scalar s{30 * random.normal(), 1 + std::abs(random.normal()), {}};
  for (std::int64_t d = 0; d < dim; ++d) s.o.push_back(random.normal());
  if (random.one_in(4)) s = {-kInf, 0.0f, std::vector<float>(sz(dim), 0.0f)};
  return s;
}

struct State : RowTest<StateKernel> {
  Random random{test_seed(51)};
};

TEST_P(State, MergeRowFollowsTheStatedOrder) {
  for (const std::int64_t dim : {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 127, 576}) {
    for (int repeat = 0; repeat < 12; ++repeat) {
      const Place place = kPlaces[repeat % 3];
      const Scalar into = random_state(dim, random), from = random_state(dim, random),
                   want = merged(row.isa, into, from);
      Operand<float> m(1, place), l(1, place), o(sz(dim), place), from_o(sz(dim), place);
      m[0] = into.m, l[0] = into.l;
      for (std::size_t d = 0; d < o.size(); ++d) o[d] = into.o[d], from_o[d] = from.o[d];
      row.merge_row({m.data(), l.data(), o.data(), from.m, from.l, from_o.data(), dim});
      EXPECT_EQ(m[0], want.m);
      EXPECT_TRUE(same_value(l[0], want.l)) << row.name << " " << l[0] << ", want " << want.l;
      for (std::size_t d = 0; d < o.size(); ++d)
        ASSERT_TRUE(same_value(o[d], want.o[d])) << row.name << " dim " << dim << " at " << d;
      EXPECT_TRUE(m.intact() && l.intact() && o.intact() && from_o.intact());
    }
  }
}

TEST_P(State, MergeTileIsMergeRowInEveryLane) {
  for (const std::int64_t vectors : {1, 2, 3}) {
    for (const std::int64_t dim : {1, 3, 16, 65}) {
      const std::int64_t nr = vectors * row.lanes;
      const Place place = random.pick({Place::front, Place::back, Place::misaligned});
      Operand<float> m(sz(nr), place), l(sz(nr), place), o(sz(nr * dim), place);
      Operand<float> from_m(sz(nr), place), from_l(sz(nr), place), from_o(sz(nr * dim), place);
      std::vector<Scalar> want;
      for (std::size_t n = 0; n < m.size(); ++n) {
        const Scalar into = random_state(dim, random), from = random_state(dim, random);
        m[n] = into.m, l[n] = into.l, from_m[n] = from.m, from_l[n] = from.l;
        for (std::size_t d = 0; d < sz(dim); ++d)
          o[d * m.size() + n] = into.o[d], from_o[d * m.size() + n] = from.o[d];
        want.push_back(merged(row.isa, into, from));
      }
      row.merge_tile(
          {{m.data(), l.data(), o.data()}, {from_m.data(), from_l.data(), from_o.data()}, nr, dim});
      for (std::size_t n = 0; n < m.size(); ++n) {
        ASSERT_EQ(m[n], want[n].m) << row.name << " lane " << n;
        ASSERT_TRUE(same_value(l[n], want[n].l)) << row.name << " lane " << n;
        for (std::size_t d = 0; d < sz(dim); ++d)
          ASSERT_TRUE(same_value(o[d * m.size() + n], want[n].o[d]))
              << row.name << " lane " << n << " dim " << d;
      }
      EXPECT_TRUE(m.intact() && l.intact() && o.intact() && from_m.intact() && from_l.intact() &&
                  from_o.intact());
    }
  }
}

TEST_P(State, MergingAnEmptyStateOnEitherSideChangesNoBit) {
  constexpr std::int64_t dim = 19;
  for (const float m0 : {-3.5f, 0.0f, 700.0f, -kInf}) {
    std::vector<float> o(dim, m0 == -kInf ? 0.0f : 0.7f), before = o, empty(dim, 0.0f);
    float m = m0, l = m0 == -kInf ? 0.0f : 1.25f;
    const float l0 = l;
    row.merge_row({&m, &l, o.data(), -kInf, 0.0f, empty.data(), dim});
    EXPECT_EQ(m, m0);
    EXPECT_EQ(l, l0);
    EXPECT_EQ(o, before);
    float m1 = -kInf, l1 = 0.0f;
    row.merge_row({&m1, &l1, empty.data(), m, l, o.data(), dim});
    EXPECT_EQ(m1, m0);
    EXPECT_EQ(l1, l0);
    EXPECT_EQ(empty, before);
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, State, ::testing::ValuesIn(host_rows(kernels::state_kernels())), RowName());

TEST(LogSumExp, IsNaturalAndExactAtTheEdges) {
  EXPECT_EQ(kernels::log_sum_exp(-kInf, 0.0f), -kInf);
  EXPECT_EQ(kernels::log_sum_exp(0.0f, 1.0f), 0.0f);
  for (const std::uint32_t nan : {0x7fc00000u, 0xffc00000u, 0x7fd23456u}) {
    const float lse = kernels::log_sum_exp(1.0f, std::bit_cast<float>(nan));
    EXPECT_EQ(std::bit_cast<std::uint32_t>(lse), 0x7fc00000u) << lse;
  }
  for (const float m : {-1000.0f, -3.0f, 0.0f, 5.5f, 3000.0f})
    for (const float l : {1.0f, 1.5f, 700.0f}) {
      const double want = (m + std::log2(static_cast<double>(l))) * 0.6931471805599453;
      // Two roundings of a value of this size, two of its parts.
      EXPECT_NEAR(kernels::log_sum_exp(m, l), want, 4 * 0x1p-24 * (1 + std::abs(want)));
    }
  // m and log2(l) cancel: the difference is as exact as they are in double.
  const float l = 700.0f, m = -static_cast<float>(std::log2(700.0));
  EXPECT_FLOAT_EQ(kernels::log_sum_exp(m, l),
                  static_cast<float>((m + std::log2(static_cast<double>(l))) * 0.6931471805599453));
  EXPECT_EQ(kernels::inverse_sum(0.0f), 0.0f);
  EXPECT_EQ(kernels::inverse_sum(4.0f), 0.25f);
  EXPECT_TRUE(std::isnan(kernels::inverse_sum(std::numeric_limits<float>::quiet_NaN())));
}

}  // namespace
}  // namespace kumiko::test
