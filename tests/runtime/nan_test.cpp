// SPDX-License-Identifier: Apache-2.0
// Which NaN an output holds does not depend on how the call is run: every NaN of outputs and LSEs is the
// canonical one of its type, and outputs with NaNs have the same bits on any thread count, executor,
// pipeline, chunking and ISA.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "runtime/plan.h"
#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/support/bits.h"
#include "tests/support/numbers.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

constexpr std::uint32_t kCanonical = 0x7fc00000u;  // 0x7fc0 (bf16) and 0x7e00 (f16) widen to it, too

/// Number n of a list of NaNs: both signs, several payloads, quiet and signalling.
float nan(std::int64_t n) {
  constexpr std::uint32_t kBits[] = {0xffc00000u, 0x7fc12345u, 0xffd6a000u,
                                     0x7f80e001u, 0xff9a6000u, 0x7fffffffu};
  return std::bit_cast<float>(kBits[static_cast<std::size_t>(n) % std::size(kBits)]);
}

/// All NaNs are canonical, and there are both NaNs and other values.
::testing::AssertionResult canonical(const std::vector<float>& values) {
  std::size_t nans = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!std::isnan(values[i])) continue;
    ++nans;
    const auto bits = std::bit_cast<std::uint32_t>(values[i]);
    if (bits != kCanonical)
      return ::testing::AssertionFailure()
             << (::testing::Message() << "number " << i << " has the bits 0x" << std::hex << bits);
  }
  if (nans > 0 && nans < values.size()) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << nans << " NaNs among " << values.size() << " values";
}
::testing::AssertionResult canonical(const Outcome& outcome) {
  if (auto out = canonical(outcome.out); !out)
    return ::testing::AssertionFailure() << "out: " << out.message();
  if (auto lse = canonical(outcome.lse); !lse)
    return ::testing::AssertionFailure() << "lse: " << lse.message();
  return ::testing::AssertionSuccess();
}

/// Prefill over two blocks of keys, rows whose keys are split among threads, and a chunk with every term.
std::vector<Case> cases() {
  Case prefill;
  prefill.q_heads = 4, prefill.kv_heads = 2, prefill.q_len = 70, prefill.kv_len = 300;
  prefill.head_dim = 20, prefill.v_head_dim = 19, prefill.is_causal = true;
  Case decode = prefill;
  decode.q_len = 1, decode.kv_len = 1100;
  Case terms = prefill;
  terms.q_len = 6, terms.kv_len = 600, terms.softcap = 4.0f, terms.alibi = 1;
  terms.bias = terms.mask = TermLayout::full, terms.mask_block = 16;
  return {prefill, decode, terms};
}

/// Several NaNs and infinities of both signs in each of these sums: columns 0 to 6 of V, all that heads 2 and
/// 3 sum up, and the scores of one query of head 0.
void plant(const Problem& problem, const Case& c) {
  std::int64_t n = 0;
  for (std::int64_t h = 0; h < c.kv_heads; ++h) {
    for (std::int64_t j = 5; j < c.kv_len; j += 11) {
      problem.v.at(0, h, j, j % 7) = ++n % 3 == 0 ? (n % 2 ? kInf : -kInf) : nan(n);
      if (h == 1 && n % 5 == 0) problem.k.at(0, h, j, n % c.head_dim) = n % 2 ? nan(n) : kInf;
    }
  }
  for (std::int64_t d = 0; d < 3; ++d) problem.q.at(0, 0, c.q_len / 2, 4 * d) = nan(d);
  if (c.bias == TermLayout::none) return;
  for (std::int64_t j = 1; j < c.kv_len; j += 50) problem.bias.set(0, 1, c.q_len / 3, j, nan(j));
}

struct Nan : ::testing::TestWithParam<std::string> {
  Context context = context_of(GetParam(), "serial");
  std::vector<Context> contexts() const {
    std::vector<Context> all;
    for (const std::string& executor : kAllExecutors) {
      for (const int threads : {1, 3, 8}) {
        ContextOptions options;
        options.isa = GetParam(), options.executor = executor, options.num_threads = threads;
        options.topology = flat_machine(8);
        if (executor == "serial" ? threads == 1 : threads == 3 || !kEmulated)
          all.push_back(context_of(options));
      }
    }
    return all;
  }
};

TEST_P(Nan, IsTheCanonicalOneHoweverTheCallIsRun) {
  for (const Case& c : cases()) {
    const Problem problem(c);
    plant(problem, c);
    const Outcome want = problem.run(context);
    ASSERT_TRUE(canonical(want)) << c;
    for (const Context& other : contexts()) {
      for (const Pipeline pipeline : kPipelines) {
        ASSERT_TRUE(same_bits(problem.run(other, pipeline), want))
            << c << " threads " << other.num_threads() << " pipeline " << static_cast<int>(pipeline);
      }
    }
  }
}

TEST_P(Nan, IsTheCanonicalOneOfSixteenBits) {
  for (const Case& c : cases()) {
    for (const DataType type : {DataType::bf16, DataType::f16}) {
      const Problem problem(c);
      plant(problem, c);
      const NarrowTensor q(problem.q, type, Flush::back), k(problem.k, type, Flush::back),
          v(problem.v, type, Flush::back), out(problem.out, type, Flush::back);
      q.copy(problem.q), k.copy(problem.k), v.copy(problem.v);
      std::vector<float> want;
      for (const Context& other : contexts()) {
        for (const Pipeline pipeline : kPipelines) {
          SCOPED_TRACE(::testing::Message()
                       << c << " type " << static_cast<int>(type) << " threads " << other.num_threads()
                       << " pipeline " << static_cast<int>(pipeline));
          AttentionArgs args = problem.args(pipeline);
          args.q = q.input(), args.k = k.input(), args.v = v.input(), args.out = out.output();
          out.poison_all();
          ASSERT_TRUE(attention_forward(other, args).ok());
          const std::vector<float> got = out.elements();
          if (want.empty()) want = got;
          ASSERT_TRUE(canonical(got));
          ASSERT_TRUE(same_bits(got, want));
        }
      }
    }
  }
}

TEST_P(Nan, IsTheSameInAnyChunks) {
  Case c = cases()[0];
  c.q_len = c.kv_len;
  const Problem problem(c);
  plant(problem, c);
  const Outcome whole = problem.run(context);
  ASSERT_TRUE(canonical(whole));
  for (const std::int64_t size : {1, 7, 100}) {
    for (std::int64_t first = 0; first < c.q_len; first += size == 1 ? 23 : size) {
      const std::int64_t last = std::min(first + size, c.q_len);
      AttentionArgs args = problem.args();
      args.q.data = &problem.q.at(0, 0, first, 0);
      args.q.shape[2] = last - first;
      args.k.shape[2] = args.v.shape[2] = last;
      ASSERT_TRUE(gives_rows(context_of(GetParam(), "openmp"), args, whole, first, last))
          << "rows " << first << " to " << last;
    }
  }
}

TEST_P(Nan, IsTheCanonicalOneInSoftmaxPv) {
  const Case c = cases()[0];
  const Problem problem(c);
  plant(problem, c);
  const GuardedTensor scores({1, c.q_heads, c.q_len, c.kv_len}, Layout::bhsd, Flush::back);
  Random random(test_seed(91));
  scores.fill_normal(random);
  for (std::int64_t j = 0; j < c.kv_len; j += 9) scores.at(0, 0, 3, j) = nan(j);
  scores.at(0, 1, 5, 100) = kInf;
  Outcome want;
  for (const Context& other : contexts()) {
    for (const Pipeline pipeline : kPipelines) {
      if (pipeline == Pipeline::decode) continue;  // needs queries
      SoftmaxPvArgs args;
      args.scores = scores.input(), args.v = problem.v.input(), args.out = problem.out.output();
      args.lse = problem.lse.view(), args.pipeline = pipeline;
      problem.poison_outputs();
      ASSERT_TRUE(softmax_pv(other, args).ok());
      if (want.out.empty()) want = problem.outcome();
      ASSERT_TRUE(canonical(problem.outcome()));
      ASSERT_TRUE(same_bits(problem.outcome(), want)) << other.num_threads();
    }
  }
}

TEST_P(Nan, IsTheCanonicalOneInFusedGemm) {
  const Case c = cases()[0];
  const Problem problem(c);
  plant(problem, c);
  std::vector<float> want;
  for (const Context& other : contexts()) {
    FusedGemmArgs args;
    args.q = problem.q.input(), args.k = problem.k.input(), args.v = problem.v.input();
    args.out = problem.out.output(), args.is_causal = true;
    problem.poison_outputs();
    ASSERT_TRUE(fused_gemm(other, args).ok());
    const std::vector<float> got = problem.out.elements();
    if (want.empty()) want = got;
    ASSERT_TRUE(canonical(got));
    ASSERT_TRUE(same_bits(got, want)) << other.num_threads();
  }
}

// Rows with NaNs in one state or both, and LSEs of NaN and +inf.
TEST_P(Nan, IsTheCanonicalOneOfMergedStates) {
  constexpr std::int64_t kRows = 12, kDim = 19;
  std::vector<float> values[2], lse[2], out(kRows * kDim), sums(kRows);
  for (std::int64_t state = 0; state < 2; ++state) {
    for (std::int64_t i = 0; i < kRows * kDim; ++i)
      values[state].push_back(i % 5 == 3 * state ? nan(i + state)
                              : i % 7 == 0       ? (state ? kInf : -kInf)
                                                 : 1.0f);
    for (std::int64_t i = 0; i < kRows; ++i)
      lse[state].push_back(i % 4 == 1 + state ? nan(i) : i == 3 ? kInf : 0.5f);
  }
  const auto state = [&](std::size_t n) {
    return AttentionState{ConstTensor::bhsd(values[n].data(), 1, 1, kRows, kDim), lse[n].data()};
  };
  const AttentionState states[] = {state(0), state(1)};
  Outcome want;
  for (const Context& other : contexts()) {
    ASSERT_TRUE(merge_states(other, states, Tensor::bhsd(out.data(), 1, 1, kRows, kDim), {sums.data()}).ok());
    if (want.out.empty()) want = {out, sums};
    ASSERT_TRUE(canonical({out, sums}));
    ASSERT_TRUE(same_bits({out, sums}, want));
  }
  const AttentionState exchanged[] = {state(1), state(0)};
  ASSERT_TRUE(
      merge_states(context, exchanged, Tensor::bhsd(out.data(), 1, 1, kRows, kDim), {sums.data()}).ok());
  ASSERT_TRUE(same_bits({out, sums}, want)) << "equal weights";
}

struct NanWithTheReference : Nan {};

// A run finds the split states of an earlier one in its memory. Those of rows that a mask hides a split from
// must not come from there.
TEST_P(Nan, OfAnEarlierRunStaysThere) {
  constexpr std::int64_t kRows = 40, kKeys = 2048, kDim = 16;
  std::vector<float> q(kRows * kDim, 0.5f), k(kKeys * kDim, 0.25f), v(kKeys * kDim, kInf), out(q.size());
  std::vector<std::uint8_t> mask(kRows * kKeys, 1);
  AttentionArgs args;
  args.q = ConstTensor::bhsd(q.data(), 1, 1, kRows, kDim);
  args.k = ConstTensor::bhsd(k.data(), 1, 1, kKeys, kDim);
  args.v = ConstTensor::bhsd(v.data(), 1, 1, kKeys, kDim);
  args.out = Tensor::bhsd(out.data(), 1, 1, kRows, kDim);
  args.mask = ConstTensor::bhsd(mask.data(), 1, 1, kRows, kKeys, DataType::boolean);
  args.pipeline = Pipeline::online;
  ContextOptions options;
  options.isa = GetParam();
  options.topology = "numa:1 core:3 pu:1";
  Plan made;
  ASSERT_TRUE(plan(context_of(options), args, &made).ok());
  ASSERT_GT(impl_of(made)->partition.merges.size(), 0u);
  ASSERT_TRUE(made.run(args).ok());
  EXPECT_EQ(out[0], kInf);
  std::fill(v.begin(), v.end(), 3.0f);
  for (std::int64_t row = 0; row < kRows; ++row)
    std::fill_n(mask.begin() + row * kKeys + 512, 512, std::uint8_t{0});
  ASSERT_TRUE(made.run(args).ok());
  for (const float x : out) ASSERT_EQ(x, 3.0f);
}

// Sums of a split begin at 0, not at what the thread's scratch has from another call.
TEST_P(Nan, OfAnEarlierCallStaysThere) {
  constexpr std::int64_t kRows = 40, kKeys = 1024, kDim = 16;
  std::vector<float> q(kRows * kDim), k(kKeys * kDim, 0.25f), v(kKeys * kDim, 3.0f), out(q.size());
  AttentionArgs args;
  args.q = ConstTensor::bhsd(q.data(), 1, 1, kRows, kDim);
  args.k = ConstTensor::bhsd(k.data(), 1, 1, kKeys, kDim);
  args.v = ConstTensor::bhsd(v.data(), 1, 1, kKeys, kDim);
  args.out = Tensor::bhsd(out.data(), 1, 1, kRows, kDim);
  for (const Pipeline pipeline : kPipelines) {
    args.pipeline = pipeline;
    std::fill(q.begin(), q.end(), std::numeric_limits<float>::quiet_NaN());
    ASSERT_TRUE(attention_forward(context, args).ok());
    for (const float x : out) ASSERT_TRUE(std::isnan(x));
    std::fill(q.begin(), q.end(), 0.5f);
    ASSERT_TRUE(attention_forward(context, args).ok());
    for (const float x : out) ASSERT_EQ(x, 3.0f);
  }
}

TEST_P(NanWithTheReference, IsWhereTheReferenceHasOne) {
  for (const Case& c : cases()) {
    const Problem problem(c);
    plant(problem, c);
    ASSERT_TRUE(same_bits(problem.run(context), problem.run(context_of("reference", "serial")))) << c;
  }
}

std::vector<std::string> isas_of_common_arithmetic() {
  std::vector<std::string> isas = host_isas();
  std::erase_if(isas, own_arithmetic);
  return isas;
}

INSTANTIATE_TEST_SUITE_P(Isa, Nan, ::testing::ValuesIn(host_isas()), StringName());
INSTANTIATE_TEST_SUITE_P(Isa, NanWithTheReference, ::testing::ValuesIn(isas_of_common_arithmetic()),
                         StringName());

}  // namespace
}  // namespace kumiko::test
