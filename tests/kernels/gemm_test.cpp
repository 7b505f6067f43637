// SPDX-License-Identifier: Apache-2.0
// Every GEMM row against one scalar chain per element: the order of kernels/gemm/gemm.h, bit for bit.
#include "kernels/gemm/gemm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/kernels/pairs.h"
#include "tests/kernels/rows.h"
#include "tests/support/random.h"
#include "tests/support/tensor.h"

namespace kumiko::test {
namespace {

using kernels::GemmArgs;
using kernels::GemmKernel;

enum class Mode { init, init_max, accumulate };

struct Problem {
  std::int64_t k, panels, gap;  ///< gap: floats between A panels, poisoned
  Place place;
  float a_size = 1.0f, b_size = 1.0f;
};

// One step of the chain, a and b as stored in the panels.
float step(kernels::Element product, float a, float b, float sum) {
  return product == kernels::Element::f32 ? std::fma(a, b, sum) : add_pair_product(a, b, sum);
}

// A step of the panels from two numbers; f32 holds the first only.
float panel_step(kernels::Element product, float first, float second) {
  return product == kernels::Element::f32 ? first : pair_of(first, second);
}

struct Gemm : RowTest<GemmKernel> {
  std::size_t mr = static_cast<std::size_t>(row.mr), nr = static_cast<std::size_t>(row.nr);

  void check(const Problem& p, Mode mode, Random& random, float special = 0.0f) {
    SCOPED_TRACE(::testing::Message()
                 << row.name << " mode " << static_cast<int>(mode) << " k " << p.k << " panels " << p.panels
                 << " gap " << p.gap << " place " << static_cast<int>(p.place) << " sizes " << p.a_size << " "
                 << p.b_size);
    const auto k = static_cast<std::size_t>(p.k), panels = static_cast<std::size_t>(p.panels),
               gap = static_cast<std::size_t>(p.gap);
    const std::size_t panel = k * mr + gap;
    Operand<float> a(panels * panel - gap, p.place), b(k * nr, p.place), c(panels * mr * nr, p.place),
        scale(nr, p.place), max(nr, p.place);
    for (float& x : a.span()) x = poison();
    for (std::size_t i = 0; i < panels; ++i)
      for (std::size_t j = 0; j < k * mr; ++j)
        a[i * panel + j] = random.one_in(16) ? 0.0f
                                             : panel_step(row.product, p.a_size * random.normal(),
                                                          p.a_size * random.normal());
    // Signed zeros tell a chain that starts from +0 from one that starts from the first product.
    for (float& x : b.span())
      x = random.one_in(16) ? panel_step(row.product, -0.0f, -0.0f)
                            : panel_step(row.product, p.b_size * random.normal(), p.b_size * random.normal());
    if (special != 0.0f) {
      a[(k - 1) * mr] = panel_step(row.product, special, random.normal());
      b[k * nr - 1] = panel_step(row.product, special, random.normal());
    }
    for (float& x : c.span()) x = mode == Mode::accumulate ? p.a_size * p.b_size * random.normal() : poison();
    for (float& x : scale.span()) x = mode == Mode::accumulate ? random.normal() : poison();
    for (float& x : max.span())
      x = mode == Mode::init_max ? random.pick({-std::numeric_limits<float>::infinity(), 0.0f, 3.0f})
                                 : poison();

    std::vector<float> want(c.size()), want_max(max.span().begin(), max.span().end());
    for (std::size_t i = 0; i < panels * mr; ++i) {
      for (std::size_t n = 0; n < nr; ++n) {
        float sum = mode == Mode::accumulate ? c[i * nr + n] * scale[n] : 0.0f;
        for (std::size_t j = 0; j < k; ++j)
          sum = step(row.product, a[i / mr * panel + j * mr + i % mr], b[j * nr + n], sum);
        want[i * nr + n] = sum;
        if (mode == Mode::init_max && sum > want_max[n]) want_max[n] = sum;
      }
    }

    const GemmArgs args{a.data(),     static_cast<std::int64_t>(panel * sizeof(float)),
                        b.data(),     c.data(),
                        p.k,          p.panels,
                        scale.data(), max.data()};
    (mode == Mode::init ? row.init : mode == Mode::init_max ? row.init_max : row.accumulate)(&args);

    for (std::size_t i = 0; i < want.size(); ++i)
      ASSERT_TRUE(same_value(c[i], want[i]))
          << "C[" << i / nr << "][" << i % nr << "] is " << c[i] << ", want " << want[i];
    for (std::size_t n = 0; n < nr; ++n) {
      if (mode == Mode::init_max) {
        ASSERT_EQ(max[n], want_max[n]) << "c_max[" << n << "]";
      } else {
        ASSERT_EQ(std::bit_cast<std::uint32_t>(max[n]), kPoisonBits) << "c_max[" << n << "] written";
      }
    }
    ASSERT_TRUE(a.intact() && b.intact() && c.intact() && scale.intact() && max.intact());
  }
};

TEST_P(Gemm, EqualsTheChainOfFusedMultiplyAdds) {
  Random random(test_seed(11));
  for (const Mode mode : {Mode::init, Mode::init_max, Mode::accumulate})
    for (const std::int64_t k : {1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 64, 96, 127, 257, 576})
      for (const std::int64_t panels : {1, 2, 3, 7}) {
        if (k * panels > thinned(5000, 1200, 200)) continue;
        for (const Place place : places(k + panels))
          ASSERT_NO_FATAL_FAILURE(
              check({k, panels, random.pick<std::int64_t>({0, 0, 1, 16, 37}), place}, mode, random));
      }
}

TEST_P(Gemm, NanAndInfinityStayInTheirRowsAndColumnsAndNanIsPassedOverByTheMaximum) {
  Random random(test_seed(12));
  for (const Mode mode : {Mode::init, Mode::init_max, Mode::accumulate})
    for (const std::int64_t k : {1, 4, 9})
      for (const float special :
           {kInf, -kInf, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::max(), 1e-40f})
        ASSERT_NO_FATAL_FAILURE(check({k, 2, 0, Place::back}, mode, random, special));
}

// Subnormal operands, products and sums are kept in f32, and count as 0 in products of bf16 pairs.
TEST_P(Gemm, SubnormalsCountOrAreZeroAsTheContractSays) {
  Random random(test_seed(13));
  for (const Mode mode : {Mode::init, Mode::init_max, Mode::accumulate})
    for (const std::int64_t k : {1, 2, 5, 40})
      for (const auto& [a, b] : {std::pair{1e-19f, 1e-19f}, {1e-20f, 1e-20f}, {1e-39f, 1e3f}, {1e3f, 1e-39f}})
        ASSERT_NO_FATAL_FAILURE(check({k, 2, 0, Place::back, a, b}, mode, random));
}

INSTANTIATE_TEST_SUITE_P(Rows, Gemm, ::testing::ValuesIn(host_rows_but_half(kernels::gemm_kernels())),
                         RowName());

}  // namespace
}  // namespace kumiko::test
