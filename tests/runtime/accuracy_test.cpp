// SPDX-License-Identifier: Apache-2.0
// The promised error bound: at most twice naive f32's error against fp64, in the maximum and in the root mean
// square. The samples are large enough to need no tolerance for chance. Prints the table of docs/numerics.md.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>

#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

struct Errors {
  double max = 0, squares = 0;
  std::int64_t count = 0;
  void add(double got, double want) {
    const double error = std::abs(got - want);
    max = std::max(max, error);
    squares += error * error;
    ++count;
  }
  double rms() const { return std::sqrt(squares / static_cast<double>(count)); }
};

struct Accuracy : ::testing::TestWithParam<std::string> {};

TEST_P(Accuracy, AtMostTwiceTheErrorOfNaive) {
  const Context context = context_of(GetParam(), "openmp");
  std::printf("%-10s %5s %6s %6s | out: max / naive, rms / naive | lse: max / naive, rms / naive\n", "isa",
              "dim", "kv_len", "scale");
  for (const std::int64_t dim : {16, 64, 128, 256}) {
    for (const std::int64_t kv_len : {33, 512, 1500}) {
      // In units of 1 / sqrt(dim): scores of size 1, as in trained models, and of size 8, close to one-hot.
      for (const float sharpness : {1.0f, 8.0f}) {
        Case c;
        c.seed = static_cast<std::uint64_t>(dim * 10000 + kv_len);
        c.batch = 8;
        c.q_len = kThinned ? 8 : 40;
        c.kv_len = kv_len;
        c.head_dim = c.v_head_dim = dim;
        c.scale = sharpness / std::sqrt(static_cast<float>(dim));
        const Problem problem(c);
        const auto fp64 = attention_fp64(problem.args());
        const auto naive = attention_naive_f32(problem.args());
        const Outcome got = problem.run(context);
        Errors out, naive_out, lse, naive_lse;
        for (std::size_t i = 0; i < fp64.out.size(); ++i)
          out.add(got.out[i], fp64.out[i]), naive_out.add(naive.out[i], fp64.out[i]);
        for (std::size_t i = 0; i < fp64.lse.size(); ++i)
          lse.add(got.lse[i], fp64.lse[i]), naive_lse.add(naive.lse[i], fp64.lse[i]);
        std::printf("%-10s %5d %6d %6.3f | %.2e %.2f  %.2e %.2f | %.2e %.2f  %.2e %.2f\n", GetParam().c_str(),
                    static_cast<int>(dim), static_cast<int>(kv_len), static_cast<double>(c.scale), out.max,
                    out.max / naive_out.max, out.rms(), out.rms() / naive_out.rms(), lse.max,
                    lse.max / naive_lse.max, lse.rms(), lse.rms() / naive_lse.rms());
        EXPECT_LE(out.max, 2 * naive_out.max) << c;
        EXPECT_LE(out.rms(), 2 * naive_out.rms()) << c;
        EXPECT_LE(lse.max, 2 * naive_lse.max) << c;
        EXPECT_LE(lse.rms(), 2 * naive_lse.rms()) << c;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, Accuracy, ::testing::ValuesIn(swept_isas()), StringName());

}  // namespace
}  // namespace kumiko::test
