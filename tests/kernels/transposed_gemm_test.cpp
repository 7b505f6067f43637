// SPDX-License-Identifier: Apache-2.0
// Every row of transposed.inc against one scalar chain per element, on panels as keys are packed: bit for
// bit.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/gemm/gemm.h"
#include "tests/kernels/rows.h"
#include "tests/support/random.h"
#include "tests/support/tensor.h"

namespace kumiko::test {
namespace {

using kernels::GemmArgs;
using kernels::TransposedGemmKernel;

struct TransposedGemm : RowTest<TransposedGemmKernel> {
  std::size_t mr = static_cast<std::size_t>(row.mr), nr = static_cast<std::size_t>(row.nr);

  /// `dims`: rows of A from `first` on are multiplied, of `all` that a block of steps has.
  void check(std::size_t k, std::size_t panels, std::size_t first, std::size_t all, bool accumulates,
             Place place, Random& random) {
    SCOPED_TRACE(::testing::Message() << row.name << " k " << k << " panels " << panels << " first " << first
                                      << " of " << all << (accumulates ? " accumulate" : " init"));
    const std::size_t block = all * mr, blocks = (k + mr - 1) / mr;
    // Of the last block only the steps in use, and only rows up to the last one, may be read.
    Operand<float> a((blocks - 1) * block + ((first + panels * mr - 1) * mr + (k - 1) % mr + 1), place),
        b(k * nr, place), c(panels * mr * nr, place), scale(nr, place);
    for (float& x : a.span()) x = poison();
    const auto a_at = [&](std::size_t m, std::size_t step) -> float& {
      return a[step / mr * block + (first + m) * mr + step % mr];
    };
    for (std::size_t m = 0; m < panels * mr; ++m)
      for (std::size_t step = 0; step < k; ++step) a_at(m, step) = random.one_in(16) ? 0.0f : random.normal();
    for (float& x : b.span()) x = random.one_in(16) ? -0.0f : random.normal();
    for (float& x : c.span()) x = accumulates ? random.normal() : poison();
    for (float& x : scale.span()) x = accumulates ? random.normal() : poison();
    std::vector<float> want(c.size());
    for (std::size_t m = 0; m < panels * mr; ++m) {
      for (std::size_t n = 0; n < nr; ++n) {
        float sum = accumulates ? c[m * nr + n] * scale[n] : 0.0f;
        for (std::size_t step = 0; step < k; ++step) sum = std::fma(a_at(m, step), b[step * nr + n], sum);
        want[m * nr + n] = sum;
      }
    }
    const GemmArgs args{a.data() + first * mr,
                        static_cast<std::int64_t>(block * sizeof(float)),
                        b.data(),
                        c.data(),
                        static_cast<std::int64_t>(k),
                        static_cast<std::int64_t>(panels),
                        scale.data(),
                        nullptr};
    (accumulates ? row.accumulate : row.init)(&args);
    for (std::size_t i = 0; i < want.size(); ++i)
      ASSERT_TRUE(same_value(c[i], want[i]))
          << "C[" << i / nr << "][" << i % nr << "] is " << c[i] << ", want " << want[i];
    ASSERT_TRUE(a.intact() && b.intact() && c.intact() && scale.intact());
  }
};

TEST_P(TransposedGemm, EqualsTheChainOfFusedMultiplyAdds) {
  Random random(test_seed(14));
  for (const bool accumulates : {false, true})
    for (const std::size_t k : {1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 31, 64, 100, 256})
      for (const std::size_t panels : {1, 2, 5}) {
        const auto first = static_cast<std::size_t>(random.between(0, 9));
        const auto behind = static_cast<std::size_t>(random.between(0, 5));
        for (const Place place : places(static_cast<std::int64_t>(k + panels)))
          ASSERT_NO_FATAL_FAILURE(
              check(k, panels, first, first + panels * mr + behind, accumulates, place, random));
      }
}

INSTANTIATE_TEST_SUITE_P(Rows, TransposedGemm,
                         ::testing::ValuesIn(host_rows(kernels::transposed_gemm_kernels())), RowName());

}  // namespace
}  // namespace kumiko::test
