// SPDX-License-Identifier: Apache-2.0
// fused_gemm: results against fp64 on every ISA and executor, the bits of rows, special values, and errors
// that name the argument.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/runtime/products_cases.h"
#include "tests/runtime/shapes.h"
#include "tests/support/bits.h"
#include "tests/support/numbers.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

/// out = (scale q k^T) v in T, left to right.
template <class T>
AttentionResult<T> linear(const AttentionArgs& a, float scale) {
  const auto [batch, heads, rows, dim] = a.q.shape;
  const std::int64_t keys = a.k.shape[2], v_dim = a.v.shape[3],
                     group = a.k.shape[1] > 0 ? heads / a.k.shape[1] : 1;
  const auto at = [](const ConstTensor& t, std::int64_t b, std::int64_t h, std::int64_t s, std::int64_t d) {
    return static_cast<const float*>(t.data)[b * t.stride[0] + h * t.stride[1] + s * t.stride[2] + d];
  };
  AttentionResult<T> result;
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t i = 0; i < rows; ++i) {
        std::vector<T> sum(static_cast<std::size_t>(v_dim), T{0});
        double squares = 0, largest = 0;
        RowFacts facts;
        for (std::int64_t j = 0; j < keys; ++j) {
          if (!sees(a, b, i, j)) continue;
          ++facts.visible;
          T score = 0;
          double q_square = 0, k_square = 0;
          for (std::int64_t d = 0; d < dim; ++d) {
            const float x = at(a.q, b, h, i, d), y = at(a.k, b, h / group, j, d);
            score += static_cast<T>(x) * static_cast<T>(y);
            q_square += static_cast<double>(x) * x, k_square += static_cast<double>(y) * y;
          }
          score *= static_cast<T>(scale);
          squares += q_square * k_square * scale * scale;
          for (std::int64_t d = 0; d < v_dim; ++d) {
            const float value = at(a.v, b, h / group, j, d);
            if (std::isfinite(value)) largest = std::max(largest, std::abs(static_cast<double>(value)));
            sum[static_cast<std::size_t>(d)] += score * static_cast<T>(value);
          }
        }
        facts.spread = largest * std::sqrt(squares);
        result.rows.push_back(facts);
        result.lse.push_back(0);
        result.out.insert(result.out.end(), sum.begin(), sum.end());
      }
    }
  }
  return result;
}

FusedGemmArgs fused_args(const AttentionArgs& a, float scale) {
  FusedGemmArgs f;
  f.q = a.q, f.k = a.k, f.v = a.v, f.out = a.out, f.scale = scale;
  f.is_causal = a.is_causal, f.causal_alignment = a.causal_alignment;
  f.window_left = a.window_left, f.window_right = a.window_right, f.seqused_k = a.seqused_k;
  return f;
}

struct FusedGemm : ::testing::TestWithParam<std::string> {
  static std::vector<float> run(const Problem& problem, const Context& context, float scale) {
    problem.poison_outputs();
    const Status status = fused_gemm(context, fused_args(problem.args(), scale));
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_TRUE(problem.out.gaps_untouched());
    return problem.out.elements();
  }
};

TEST_P(FusedGemm, MeetsTheErrorPromiseWithTheBitsOfTheReference) {
  for (const Case& c : products_cases()) {
    SCOPED_TRACE(::testing::Message() << GetParam() << ": " << c);
    const Problem problem(c);
    const float scale = c.seed % 2 ? 1.0f : -0.3f;
    const std::vector<float> want = run(problem, context_of("reference", "serial"), scale);
    for (const std::string& executor : kAllExecutors)
      ASSERT_TRUE(same_bits(run(problem, context_of(GetParam(), executor), scale), want)) << executor;
    ContextOptions eight;
    eight.isa = GetParam();
    eight.num_threads = 8;
    eight.topology = flat_machine(8);
    ASSERT_TRUE(same_bits(run(problem, context_of(eight), scale), want));
    ASSERT_TRUE(meets_error_promise(want, {}, linear<double>(problem.args(), scale),
                                    linear<float>(problem.args(), scale)));
  }
}

// 16-bit tensors against fp64 on the values they hold: f32 outputs have the bits of the f32 call, 16-bit
// ones those rounded once.
TEST_P(FusedGemm, NarrowTensorsMeetTheErrorPromise) {
  const Context context = context_of(GetParam(), "openmp");
  const std::vector<Case> all = products_cases();
  for (std::size_t i = 0; i < all.size(); i += thinned<std::size_t>(2, 4, 2)) {
    const Case& c = all[i];
    const float scale = c.seed % 2 ? 1.0f : -0.3f;
    for (const DataType type : {DataType::bf16, DataType::f16}) {
      SCOPED_TRACE(::testing::Message() << GetParam() << ": " << c << " type " << static_cast<int>(type));
      const Problem problem(c);
      for (const GuardedTensor* t : {&problem.q, &problem.k, &problem.v}) t->round_to(type);
      const NarrowTensor q(problem.q, type, Flush::back), k(problem.k, type, Flush::front),
          v(problem.v, type, Flush::back), out(problem.out, type, Flush::back);
      q.copy(problem.q), k.copy(problem.k), v.copy(problem.v);
      const std::vector<float> wide = run(problem, context, scale);
      FusedGemmArgs args = fused_args(problem.args(), scale);
      args.q = q.input(), args.k = k.input(), args.v = v.input();
      problem.poison_outputs();
      ASSERT_TRUE(fused_gemm(context, args).ok());
      const std::vector<float> got = problem.out.elements();
      ASSERT_TRUE(meets_error_promise(got, {}, linear<double>(problem.args(), scale),
                                      linear<float>(problem.args(), scale)));
      ASSERT_TRUE(same_bits(got, wide));
      args.out = out.output();
      ASSERT_TRUE(fused_gemm(context, args).ok());
      ASSERT_TRUE(out.gaps_untouched());
      ASSERT_TRUE(are_rounded_once(out.elements(), wide, type));
    }
  }
}

// A factor as any other, unlike the scale of attention.
TEST_P(FusedGemm, AScaleOfZeroGivesZeros) {
  Case c;
  c.q_heads = 2, c.q_len = 20, c.kv_len = 300, c.is_causal = true;
  const Problem problem(c);
  const std::vector<float> got = run(problem, context_of(GetParam(), "serial"), 0.0f);
  EXPECT_TRUE(same_bits(got, std::vector<float>(got.size())));
}

TEST_P(FusedGemm, SpecialValuesReachTheRowsThatSeeThem) {
  Case c;
  c.q_heads = 2, c.kv_heads = 1, c.q_len = 130, c.kv_len = 130, c.head_dim = 9, c.v_head_dim = 12,
  c.is_causal = true;
  for (const float bad : {kNan, kInf}) {
    for (const std::int64_t j : {0, 40, 129}) {
      const Problem problem(c);
      problem.v.at(0, 0, j, 3) = bad;
      problem.k.at(0, 0, (j + 17) % 130, 2) = bad;
      const std::vector<float> got = run(problem, context_of(GetParam(), "openmp"), 1.0f);
      EXPECT_TRUE(meets_error_promise(got, {}, linear<double>(problem.args(), 1.0f),
                                      linear<float>(problem.args(), 1.0f)))
          << bad << " at " << j;
    }
  }
}

TEST_P(FusedGemm, ARowsBitsDoNotDependOnItsNeighbours) {
  Case c;
  c.q_heads = 2, c.kv_heads = 1, c.q_len = 61, c.kv_len = 700, c.head_dim = 20, c.v_head_dim = 17;
  const Problem problem(c);
  const Context context = context_of(GetParam(), "openmp");
  const std::vector<float> want = run(problem, context, 0.5f);
  for (const std::int64_t i : {0, 1, 30, 60}) {
    FusedGemmArgs one = fused_args(problem.args(), 0.5f);
    std::vector<float> row(2 * 17);
    one.q.data = static_cast<const float*>(one.q.data) + i * one.q.stride[2];
    one.q.shape[2] = 1;
    one.out = Tensor::bhsd(row.data(), 1, 2, 1, 17);
    ASSERT_TRUE(fused_gemm(context, one).ok());
    for (std::int64_t h = 0; h < 2; ++h)
      EXPECT_EQ(0, std::memcmp(row.data() + h * 17, want.data() + (h * 61 + i) * 17, 17 * sizeof(float)));
  }
}

TEST(FusedGemmErrors, NameTheArgumentAndWriteNothing) {
  const Fault<FusedGemmArgs> faults[] = {{"q", "577", [](auto& a) { a.q.shape[3] = a.k.shape[3] = 577; }},
                                         {"q", "i32", [](auto& a) { a.q.dtype = DataType::i32; }},
                                         {"k", "7", [](auto& a) { a.k.shape[3] = 7; }},
                                         {"v", "null", [](auto& a) { a.v.data = nullptr; }},
                                         {"out", "2", [](auto& a) { a.out.shape[1] = 2; }},
                                         {"scale", "inf", [](auto& a) { a.scale = kInf; }},
                                         {"window_right", "-3", [](auto& a) { a.window_right = -3; }}};
  const Context context = context_of(ContextOptions{});
  for (const auto& fault : faults) {
    const Problem problem(faulty());
    FusedGemmArgs args = fused_args(problem.args(), 1.0f);
    fault.commit(args);
    problem.poison_outputs();
    const Status status = fused_gemm(context, args);
    expect_error(status, Code::invalid_argument, fault.argument, fault.value);
    // 0 is a factor here, not the default 1 / sqrt(head_dim) of attention_forward.
    EXPECT_EQ(status.message().find("sqrt"), std::string::npos) << status.message();
    EXPECT_TRUE(problem.outputs_untouched());
  }
  expect_error(fused_gemm(Context(), {}), Code::invalid_argument, "context", "empty");
}

INSTANTIATE_TEST_SUITE_P(Isa, FusedGemm, ::testing::ValuesIn(swept_isas()), StringName());

}  // namespace
}  // namespace kumiko::test
