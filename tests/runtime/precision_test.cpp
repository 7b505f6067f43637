// SPDX-License-Identifier: Apache-2.0
// The caller's choice of products on every ISA: whose bits it gives, and where it is an error.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/runtime/half_case.h"
#include "tests/support/bits.h"
#include "tests/support/host.h"

namespace kumiko::test {
namespace {

Case small_case() {
  Case c;
  c.q_len = 30, c.kv_len = 300, c.head_dim = 20, c.v_head_dim = 12, c.q_heads = 2, c.is_causal = true;
  return c;
}

struct Precisions : ::testing::TestWithParam<std::string> {
  Context context = context_of(GetParam(), "serial");

  Outcome run(const Context& on, const HalfProblem& problem, Precision precision) {
    AttentionArgs args = problem.args();
    args.precision = precision;
    problem.wide.poison_outputs();
    const Status status = attention_forward(on, args);
    EXPECT_TRUE(status.ok()) << status.message();
    return problem.wide.outcome();
  }
  static bool has_half(const std::string& isa, DataType type) {
    if (type == DataType::f16) return isa == "sve512" || isa == "reference";
    return type == DataType::bf16 && isa == "avx512_bf16";
  }
  static void expect_unsupported(const Status& status, const std::string& what) {
    EXPECT_EQ(status.code(), Code::unsupported) << status.message();
    for (const std::string& word : {std::string("half"), GetParam(), what})
      EXPECT_NE(status.message().find(word), std::string::npos) << status.message();
  }
};

TEST_P(Precisions, StandardIsTheF32CallOnTheSameValues) {
  for (const DataType type : {DataType::bf16, DataType::f16}) {
    const HalfProblem problem(small_case(), type);
    EXPECT_TRUE(same_bits(run(context, problem, Precision::standard), problem.wide.run(context)));
  }
}

TEST_P(Precisions, AutomaticIsHalfForBf16OnAvx512Bf16AloneAndElseStandard) {
  for (const DataType type : {DataType::bf16, DataType::f16}) {
    const HalfProblem problem(small_case(), type);
    const bool is_half = GetParam() == "avx512_bf16" && type == DataType::bf16;
    EXPECT_TRUE(same_bits(run(context, problem, Precision::automatic),
                          run(context, problem, is_half ? Precision::half : Precision::standard)));
    if (is_half) {
      EXPECT_FALSE(same_bits(run(context, problem, Precision::half), problem.wide.run(context)));
      EXPECT_TRUE(same_bits(run(context, problem, Precision::standard),
                            run(context_of("avx512", "serial"), problem, Precision::automatic)));
    }
  }
}

TEST_P(Precisions, HalfWithoutKernelsIsAnErrorThatNamesPrecisionTypeAndIsa) {
  for (const DataType type : {DataType::f32, DataType::bf16, DataType::f16}) {
    if (has_half(GetParam(), type)) continue;
    const HalfProblem problem(small_case(), type == DataType::f32 ? DataType::f16 : type);
    AttentionArgs args = type == DataType::f32 ? problem.wide.args() : problem.args();
    args.precision = Precision::half;
    problem.wide.poison_outputs();
    expect_unsupported(attention_forward(context, args), type == DataType::f32   ? "f32"
                                                         : type == DataType::f16 ? "f16"
                                                                                 : "bf16");
    EXPECT_TRUE(problem.wide.outputs_untouched());
    Plan unused;
    expect_unsupported(plan(context, args, &unused), "precision is");
  }
}

// m is not the maximum of a row there.
TEST_P(Precisions, ProductsOfF16HaveNoLargestScore) {
  if (!has_half(GetParam(), DataType::f16)) return;
  const HalfProblem problem(small_case(), DataType::f16);
  std::vector<float> row_max(60);
  AttentionArgs args = problem.args();
  args.precision = Precision::half;
  Plan made;
  ASSERT_TRUE(plan(context, args, &made).ok());
  args.row_max.data = row_max.data();
  problem.wide.poison_outputs();
  for (const Status& status : {attention_forward(context, args), made.run(args)}) {
    EXPECT_EQ(status.code(), Code::unsupported);
    EXPECT_EQ(status.message(),
              "row_max is given; expected null, as products of f16 do not find the largest score");
  }
  EXPECT_TRUE(problem.wide.outputs_untouched());
  EXPECT_EQ(row_max, std::vector<float>(60));
}

INSTANTIATE_TEST_SUITE_P(Isa, Precisions, ::testing::ValuesIn(host_isas()), StringName());

// Calls without the first product, or without the softmax.
struct HalfProducts : ::testing::TestWithParam<std::string> {
  Context context = context_of(GetParam(), "serial");
  Random random{test_seed(421)};
};

SoftmaxPvArgs softmax_pv_of(const HalfProblem& problem, const ConstTensor& scores) {
  SoftmaxPvArgs args;
  const AttentionArgs all = problem.args();
  args.scores = scores;
  args.v = all.v, args.out = all.out, args.lse = all.lse;
  args.is_causal = all.is_causal, args.window_left = all.window_left;
  args.precision = Precision::half;
  return args;
}

// Scores of f32 and of int32, as the rows of attention whose keys are the identity.
TEST_P(HalfProducts, SoftmaxOfGivenScoresMeetsTheBoundInEveryPipeline) {
  for (const std::int64_t q_len : {12, 70}) {
    for (const bool integers : {false, true}) {
      Case c = small_case();
      c.q_len = q_len, c.kv_len = 270, c.head_dim = 1, c.q_heads = 1, c.window_left = integers ? 140 : -1;
      HalfProblem problem(c);
      // One dim: the score of (i, j) is q_i k_j.
      std::vector<float> scores;
      std::vector<std::int32_t> numbers;
      for (std::int64_t i = 0; i < q_len; ++i)
        problem.wide.q.at(0, 0, i, 0) = static_cast<float>(random.between(-40, 40));
      for (std::int64_t j = 0; j < c.kv_len; ++j)
        problem.wide.k.at(0, 0, j, 0) = static_cast<float>(random.between(-40, 40));
      for (std::int64_t i = 0; i < q_len; ++i)
        for (std::int64_t j = 0; j < c.kv_len; ++j) {
          scores.push_back(problem.wide.q.at(0, 0, i, 0) * problem.wide.k.at(0, 0, j, 0));
          numbers.push_back(static_cast<std::int32_t>(scores.back()));
        }
      AttentionArgs same = problem.wide.args();
      same.scale = 1.0f / 256;
      const auto fp64 = attention_fp64(same);
      SoftmaxPvArgs args = softmax_pv_of(
          problem, integers ? ConstTensor::bhsd(numbers.data(), 1, 1, q_len, c.kv_len, DataType::i32)
                            : ConstTensor::bhsd(scores.data(), 1, 1, q_len, c.kv_len));
      args.scale = same.scale;
      Outcome first;
      for (const Pipeline pipeline : kPipelines) {
        if (pipeline == Pipeline::decode) continue;
        args.pipeline = pipeline;
        problem.wide.poison_outputs();
        const Status status = softmax_pv(context, args);
        ASSERT_TRUE(status.ok()) << status.message();
        ASSERT_TRUE(problem.wide.borders_intact());
        double worst = 0;
        if (first.out.empty()) {
          first = problem.wide.outcome();
          ASSERT_TRUE(meets_half_bound(first, fp64, 1, 5.0, &worst));
        }
        ASSERT_TRUE(same_bits(problem.wide.outcome(), first)) << static_cast<int>(pipeline);
      }
    }
  }
}

TEST_P(HalfProducts, TwoProductsWithoutASoftmax) {
  for (const float size : {1.0f, 60.0f, 0x1p-9f}) {
    for (const std::int64_t q_len : {1, 66}) {
      Case c = small_case();
      c.q_len = q_len, c.kv_len = thinned(600, 300, 300), c.window_left = q_len == 1 ? -1 : 200,
      c.k_magnitude = c.q_magnitude = size;
      const HalfProblem problem(c);
      FusedGemmArgs args;
      const AttentionArgs all = problem.args();
      args.q = all.q, args.k = all.k, args.v = all.v, args.out = all.out;
      args.is_causal = all.is_causal, args.window_left = all.window_left;
      args.precision = Precision::half, args.scale = 0.25f;
      const auto run = [&](const Context& on) {
        problem.wide.poison_outputs();
        const Status status = fused_gemm(on, args);
        EXPECT_TRUE(status.ok()) << status.message();
        EXPECT_TRUE(problem.wide.out.gaps_untouched());
        return problem.wide.outcome().out;
      };
      const std::vector<float> got = run(context);
      double error = 0, norm = 0;
      for (std::int64_t h = 0; h < c.q_heads; ++h)
        for (std::int64_t i = 0; i < q_len; ++i)
          for (std::int64_t n = 0; n < c.v_head_dim; ++n) {
            double want = 0;
            for (std::int64_t j = 0; j < c.kv_len; ++j) {
              if (!sees(all, 0, i, j)) continue;
              double s = 0;
              for (std::int64_t d = 0; d < c.head_dim; ++d)
                s += static_cast<double>(problem.wide.q.at(0, h, i, d)) * problem.wide.k.at(0, 0, j, d);
              want += 0.25 * s * problem.wide.v.at(0, 0, j, n);
            }
            const double x = got[static_cast<std::size_t>((h * q_len + i) * c.v_head_dim + n)];
            error += (x - want) * (x - want), norm += want * want;
          }
      EXPECT_LE(std::sqrt(error / norm), 8e-3) << "size " << size << ", queries " << q_len;
      for (const Context& machine : contexts_of(GetParam())) {
        if (size != 1.0f) continue;
        EXPECT_TRUE(same_bits(run(machine), got));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Half, HalfProducts, ::testing::ValuesIn(half_isas()), StringName());

TEST(HalfProductsOfBf16, AreUnsupportedWhereOnlyPairsAreMultiplied) {
  const HalfProblem problem(small_case(), DataType::bf16);
  for (const std::string& isa : host_isas()) {
    FusedGemmArgs args;
    const AttentionArgs all = problem.args();
    args.q = all.q, args.k = all.k, args.v = all.v, args.out = all.out, args.precision = Precision::half;
    const Status status = fused_gemm(context_of(isa, "serial"), args);
    EXPECT_EQ(status.code(), Code::unsupported) << isa;
    EXPECT_NE(status.message().find("fused_gemm"), std::string::npos) << status.message();
  }
}

}  // namespace
}  // namespace kumiko::test
