// SPDX-License-Identifier: Apache-2.0
// softmax_pv: results against fp64 on every ISA, executor and pipeline, the bits of rows, special values, and
// errors that name the argument.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <regex>

#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/runtime/products_cases.h"
#include "tests/runtime/shapes.h"
#include "tests/support/bits.h"
#include "tests/support/numbers.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

constexpr Pipeline kTilePipelines[] = {Pipeline::automatic, Pipeline::online, Pipeline::two_pass,
                                       Pipeline::interleaved, Pipeline::three_pass};

/// Precomputed scores in place of a case's queries and keys, with its masks, lengths, layouts and V.
struct ScoredProblem {
  Problem base;
  GuardedTensor scores;
  SoftmaxPvArgs args;

  ScoredProblem(const Case& c, DataType type, float scale) : base(c) {
    Random random(c.seed + 77);
    scores = GuardedTensor({c.batch, c.q_heads, c.q_len, c.kv_len}, c.q_layout, Flush::back);
    for_each([&](float& s) {
      s = type == DataType::f32 ? 3 * random.normal()
                                : std::bit_cast<float>(static_cast<std::int32_t>(random.between(-900, 900)));
    });
    const AttentionArgs& a = base.args();
    args.scores = scores.input();
    args.scores.dtype = type;
    args.v = a.v;
    args.out = a.out;
    args.lse = a.lse;
    args.scale = scale;
    args.is_causal = a.is_causal;
    args.causal_alignment = a.causal_alignment;
    args.window_left = a.window_left;
    args.window_right = a.window_right;
    args.seqused_k = a.seqused_k;
  }
  template <class Body>
  void for_each(Body body) const {
    const auto [batch, heads, rows, keys] = scores.shape();
    for (std::int64_t b = 0; b < batch; ++b)
      for (std::int64_t h = 0; h < heads; ++h)
        for (std::int64_t i = 0; i < rows; ++i)
          for (std::int64_t j = 0; j < keys; ++j) body(scores.at(b, h, i, j));
  }

  Outcome run(const Context& context, Pipeline pipeline) const {
    base.poison_outputs();
    SoftmaxPvArgs a = args;
    a.pipeline = pipeline;
    const Status status = softmax_pv(context, a);
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_TRUE(base.borders_intact());
    return base.outcome();
  }

  /// The same problem for the reference: scores as a bias on products that are 0.
  struct Spec {
    std::vector<float> zeros, bias;
    AttentionArgs args;
  };
  Spec spec() const {
    const auto [batch, heads, rows, keys] = scores.shape();
    Spec s{std::vector<float>(
               static_cast<std::size_t>(std::max(batch * heads * std::max(rows, keys), std::int64_t{1}))),
           {},
           base.args()};
    for_each([&](float& x) {
      const float score =
          args.scores.dtype == DataType::f32 ? x : static_cast<float>(std::bit_cast<std::int32_t>(x));
      s.bias.push_back(score * args.scale);
    });
    s.args.q = ConstTensor::bhsd(s.zeros.data(), batch, heads, rows, 1);
    s.args.k = ConstTensor::bhsd(s.zeros.data(), batch, args.v.shape[1], keys, 1);
    s.args.bias = ConstTensor::bhsd(s.bias.data(), batch, heads, rows, keys);
    s.args.scale = 1.0f;
    return s;
  }
};

struct SoftmaxPv : ::testing::TestWithParam<std::string> {};

TEST_P(SoftmaxPv, EveryPipelineMeetsTheErrorPromiseWithTheSameBits) {
  for (const Case& c : products_cases()) {
    for (const DataType type : {DataType::f32, DataType::i32}) {
      SCOPED_TRACE(::testing::Message()
                   << GetParam() << ": " << c << (type == DataType::i32 ? " i32" : " f32"));
      const ScoredProblem problem(c, type, type == DataType::f32 ? -1.25f : 0.0078125f);
      const auto spec = problem.spec();
      const auto fp64 = attention_fp64(spec.args);
      const auto naive = attention_naive_f32(spec.args);
      Outcome first;
      for (std::size_t p = 0; p < std::size(kTilePipelines); ++p) {
        const Context context = context_of(GetParam(), kAllExecutors[p % kAllExecutors.size()]);
        const Outcome got = problem.run(context, kTilePipelines[p]);
        if (p == 0) {
          first = got;
          ASSERT_TRUE(meets_error_promise(got.out, got.lse, fp64, naive));
        } else {
          ASSERT_TRUE(same_bits(got, first)) << "pipeline " << p;
        }
      }
    }
  }
}

TEST_P(SoftmaxPv, EveryIsaAndThreadCountGivesTheBitsOfTheReference) {
  for (const Case& c : products_cases()) {
    if (c.kv_len < 500) continue;
    SCOPED_TRACE(::testing::Message() << c);
    const ScoredProblem problem(c, DataType::f32, 1.0f);
    // sve512 flushes subnormals to 0 and computes exponentials by table, so its bits differ
    // (docs/numerics.md).
    const std::string yardstick = GetParam() == "sve512" ? GetParam() : "reference";
    const Outcome want = problem.run(context_of(yardstick, "serial"), Pipeline::automatic);
    for (const int threads : {1, 3, 8}) {
      ContextOptions options;
      options.isa = GetParam();
      options.num_threads = threads;
      options.topology = flat_machine(8);
      for (const Pipeline p : kTilePipelines)
        ASSERT_TRUE(same_bits(problem.run(context_of(options), p), want));
    }
  }
}

TEST_P(SoftmaxPv, ScoresOfMinusInfinityHideAndNanReachesItsRowAlone) {
  Case c;
  c.q_heads = 2, c.kv_heads = 1, c.q_len = 60, c.kv_len = 530, c.v_head_dim = 12;
  for (const bool bad_value : {false, true}) {
    const ScoredProblem problem(c, DataType::f32, 1.0f);
    problem.scores.at(0, 0, 3, 511) = -kInf;
    problem.scores.at(0, 0, 9, 520) = kNan;
    problem.scores.at(0, 1, 50, 2) = kInf;
    if (bad_value) {
      problem.base.v.at(0, 0, 300, 5) = kNan;
    } else {
      for (std::int64_t j = 0; j < c.kv_len; ++j) problem.scores.at(0, 1, 7, j) = -kInf;
    }
    const auto spec = problem.spec();
    const auto fp64 = attention_fp64(spec.args);
    const auto naive = attention_naive_f32(spec.args);
    for (const Pipeline pipeline : kTilePipelines) {
      const Outcome got = problem.run(context_of(GetParam(), "openmp"), pipeline);
      EXPECT_TRUE(meets_error_promise(got.out, got.lse, fp64, naive)) << static_cast<int>(pipeline);
    }
  }
}

// A factor as any other, unlike the scale of attention.
TEST_P(SoftmaxPv, AScaleOfZeroMakesAllScoresEqual) {
  Case c;
  c.q_heads = 2, c.kv_heads = 1, c.q_len = 20, c.kv_len = 300, c.v_head_dim = 12, c.is_causal = true;
  for (const DataType type : {DataType::f32, DataType::i32}) {
    const ScoredProblem problem(c, type, 0.0f);
    const auto spec = problem.spec();
    const Outcome got = problem.run(context_of(GetParam(), "serial"), Pipeline::automatic);
    EXPECT_TRUE(
        meets_error_promise(got.out, got.lse, attention_fp64(spec.args), attention_naive_f32(spec.args)));
  }
}

// If a hidden score far above the others raised the maximum, their probabilities would all be 0.
TEST_P(SoftmaxPv, HiddenScoresRaiseNoMaximum) {
  Case c;
  c.q_heads = 1, c.kv_heads = 1, c.q_len = 60, c.kv_len = 300, c.v_head_dim = 12, c.is_causal = true;
  const ScoredProblem problem(c, DataType::f32, 1.0f);
  for (std::int64_t i = 0; i < c.q_len; ++i)
    for (std::int64_t j = c.kv_len - c.q_len + i + 1; j < c.kv_len; ++j) problem.scores.at(0, 0, i, j) = 1e4f;
  const auto spec = problem.spec();
  const auto fp64 = attention_fp64(spec.args);
  const auto naive = attention_naive_f32(spec.args);
  for (const Pipeline pipeline : kTilePipelines) {
    const Outcome got = problem.run(context_of(GetParam(), "serial"), pipeline);
    EXPECT_TRUE(meets_error_promise(got.out, got.lse, fp64, naive)) << static_cast<int>(pipeline);
  }
}

TEST_P(SoftmaxPv, NarrowValuesGiveTheBitsOfWideOnes) {
  Case c;
  c.q_heads = 2, c.kv_heads = 2, c.q_len = 20, c.kv_len = 600, c.v_head_dim = 33;
  const ScoredProblem problem(c, DataType::f32, 1.0f);
  const Context context = context_of(GetParam(), "openmp");
  for (const DataType type : {DataType::bf16, DataType::f16}) {
    problem.base.v.round_to(type);
    const Outcome want = problem.run(context, Pipeline::automatic);
    const NarrowTensor narrow(problem.base.v, type, Flush::back);
    narrow.copy(problem.base.v);
    SoftmaxPvArgs a = problem.args;
    a.v = narrow.input();
    problem.base.poison_outputs();
    ASSERT_TRUE(softmax_pv(context, a).ok());
    EXPECT_TRUE(same_bits(problem.base.outcome(), want));
    const NarrowTensor out(problem.base.out, type, Flush::back);
    a.out = out.output();
    ASSERT_TRUE(softmax_pv(context, a).ok());
    ASSERT_TRUE(out.gaps_untouched());
    EXPECT_TRUE(are_rounded_once(out.elements(), want.out, type));
  }
}

TEST(SoftmaxPvErrors, NameTheArgumentAndWriteNothing) {
  static const std::int32_t too_long[] = {5, 6};
  const Fault<SoftmaxPvArgs> faults[] = {
      {"scores", "1", [](auto& a) { a.scores.dtype = DataType::bf16; }},
      {"scores", "3", [](auto& a) { a.scores.dtype = DataType::boolean; }},
      {"scores", "-1", [](auto& a) { a.scores.shape[3] = -1; }},
      {"scores", "2", [](auto& a) { a.scores.stride[3] = 2; }},
      {"scores", "null", [](auto& a) { a.scores.data = nullptr; }},
      {"scores", "0x", [](auto& a) { a.scores.data = static_cast<const char*>(a.scores.data) + 2; }},
      {"v", "i32", [](auto& a) { a.v.dtype = DataType::i32; }},
      {"v", "3", [](auto& a) { a.v.shape[1] = 3; }},
      {"v", "6", [](auto& a) { a.v.shape[2] = 6; }},
      {"v", "577", [](auto& a) { a.v.shape[3] = a.out.shape[3] = 577; }},
      {"out", "4", [](auto& a) { a.out.shape[2] = 4; }},
      {"out", "f16", [](auto& a) { a.out.dtype = DataType::f16; }},
      {"out", "0x", [](auto& a) { a.out.data = const_cast<void*>(a.v.data); }},
      {"lse", "0x", [](auto& a) { a.lse.data = static_cast<float*>(const_cast<void*>(a.scores.data)); }},
      {"scale", "NaN", [](auto& a) { a.scale = kNan; }},
      {"window_left", "-2", [](auto& a) { a.window_left = -2; }},
      {"seqused_k", "6", [](auto& a) { a.seqused_k = too_long; }},
      {"pipeline", "77", [](auto& a) { a.pipeline = static_cast<Pipeline>(77); }},
      {"pipeline", "decode", [](auto& a) { a.pipeline = Pipeline::decode; }, Code::unsupported}};
  const Context context = context_of(ContextOptions{});
  for (const auto& fault : faults) {
    const ScoredProblem problem(faulty(), DataType::f32, 1.0f);
    SoftmaxPvArgs args = problem.args;
    fault.commit(args);
    problem.base.poison_outputs();
    expect_error(softmax_pv(context, args), fault.code, fault.argument, fault.value);
    EXPECT_TRUE(problem.base.outputs_untouched());
  }
  expect_error(softmax_pv(Context(), {}), Code::invalid_argument, "context", "empty");
}

INSTANTIATE_TEST_SUITE_P(Isa, SoftmaxPv, ::testing::ValuesIn(swept_isas()), StringName());

}  // namespace
}  // namespace kumiko::test
