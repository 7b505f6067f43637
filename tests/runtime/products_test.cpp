// SPDX-License-Identifier: Apache-2.0
// softmax_pv and fused_gemm: results against fp64 on every ISA, executor and pipeline, the bits of rows,
// special values, and errors that name the argument.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <regex>

#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/runtime/shapes.h"
#include "tests/support/bits.h"
#include "tests/support/bochs.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
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

/// Ragged lengths, odd dims, groups, masks and layouts in rotation; few on an emulated processor.
std::vector<Case> cases() {
  std::vector<Case> list;
  Random random(test_seed(4711));
  const struct {
    std::int64_t batch, q_heads, kv_heads, q_len, kv_len, head_dim, v_dim;
  } rows[] = {{1, 1, 1, 1, 1, 1, 1},      {1, 1, 1, 12, 256, 7, 64},  {2, 4, 2, 5, 17, 24, 17},
              {1, 2, 2, 50, 300, 13, 33}, {1, 6, 3, 49, 513, 16, 40}, {2, 2, 1, 97, 130, 64, 128},
              {1, 1, 1, 200, 1100, 8, 9}, {1, 3, 1, 7, 1537, 40, 65}, {3, 2, 2, 16, 0, 8, 8},
              {1, 8, 8, 1, 600, 20, 20},  {1, 1, 1, 130, 2600, 5, 6}};
  constexpr Layout kIn[] = {Layout::bhsd, Layout::padded, Layout::bshd, Layout::padded_bshd};
  for (int kind = 0; kind < kMaskKinds; ++kind) {
    for (std::size_t i = 0; i < std::size(rows); ++i) {
      if ((i + static_cast<std::size_t>(kind)) % 3 != 0) continue;
      const auto& r = rows[i];
      Case c;
      c.seed = static_cast<std::uint64_t>(random.between(1, 1 << 30));
      c.batch = r.batch, c.q_heads = r.q_heads, c.kv_heads = r.kv_heads, c.q_len = r.q_len,
      c.kv_len = r.kv_len;
      c.head_dim = r.head_dim, c.v_head_dim = r.v_dim;
      c.q_layout = kIn[list.size() % 4], c.v_layout = kIn[list.size() / 4 % 4];
      c.k_layout = kIn[list.size() / 2 % 4], c.out_layout = kIn[list.size() / 3 % 4];
      if (list.size() % 2 == 1) c.lse = GuardedLse::Layout::padded;
      list.push_back(masked(c, kind));
    }
  }
  return thin(list, thinned<std::size_t>(1, 1, 7), 1'500'000);
}

struct SoftmaxPv : ::testing::TestWithParam<std::string> {};

TEST_P(SoftmaxPv, EveryPipelineMeetsTheErrorPromiseWithTheSameBits) {
  for (const Case& c : cases()) {
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
  for (const Case& c : cases()) {
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
  }
}

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
  for (const Case& c : cases()) {
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
  const std::vector<Case> all = cases();
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
      const std::vector<float> stored = out.elements();
      std::vector<float> want = wide;
      for (float& x : want) x = rounded(type, x);
      if (type == DataType::f16) allow_bochs_ties(stored, wide, want);
      ASSERT_TRUE(same_bits(stored, want));
    }
  }
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

// Each fault: an error with the argument's name and its value, and nothing written.
template <class Args>
struct Fault {
  const char* argument;
  const char* value;
  std::function<void(Args&)> commit;
  Code code = Code::invalid_argument;
};

void expect_error(const Status& status, Code code, const std::string& argument, const std::string& value) {
  SCOPED_TRACE(status.message());
  EXPECT_EQ(status.code(), code);
  EXPECT_TRUE(std::regex_search(status.message(), std::regex("\\b" + argument + "\\b"))) << argument;
  EXPECT_NE(status.message().find(value), std::string::npos) << value;
  EXPECT_NE(status.message().find("expected"), std::string::npos);
}

Case faulty() {
  Case c;
  c.batch = 2, c.q_heads = 4, c.kv_heads = 2, c.q_len = 3, c.kv_len = 5, c.head_dim = 8, c.v_head_dim = 6;
  return c;
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
      {"v", "4", [](auto& a) { a.v.dtype = DataType::i32; }},
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

TEST(FusedGemmErrors, NameTheArgumentAndWriteNothing) {
  const Fault<FusedGemmArgs> faults[] = {{"q", "577", [](auto& a) { a.q.shape[3] = a.k.shape[3] = 577; }},
                                         {"q", "4", [](auto& a) { a.q.dtype = DataType::i32; }},
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

INSTANTIATE_TEST_SUITE_P(Isa, SoftmaxPv, ::testing::ValuesIn(host_isas()), StringName());
INSTANTIATE_TEST_SUITE_P(Isa, FusedGemm, ::testing::ValuesIn(host_isas()), StringName());

}  // namespace
}  // namespace kumiko::test
