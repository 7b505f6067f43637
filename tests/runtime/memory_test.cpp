// SPDX-License-Identifier: Apache-2.0
// No key past seqused_k is read, nothing outside out and lse is written, and every element of them is.
#include <gtest/gtest.h>

#include <cstring>

#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/support/bits.h"

namespace kumiko::test {
namespace {

struct Memory : ::testing::TestWithParam<std::string> {
  Context context = context_of(GetParam(), "openmp");
};

// The view has kv_len keys but memory ends after seqused_k of them: a read past that is a SIGSEGV.
TEST_P(Memory, KeysPastTheUsedLengthAreNeverRead) {
  for (const std::int32_t used : {0, 1, 2, 7, 8, 15, 16, 17, 255, 256, 257, 511, 513}) {
    for (const std::int64_t q_len : {1, 5, 60}) {
      for (const bool causal : {false, true}) {
        Case c;
        c.q_len = q_len;
        c.q_heads = 2;
        c.kv_len = used;
        c.head_dim = 17;
        c.v_head_dim = 9;
        c.is_causal = causal;
        Problem problem(c);
        constexpr std::int64_t kClaimed = 100000;
        const auto keep = [&](const GuardedTensor& from, std::int64_t dim) {
          GuardedBuffer buffer(from.span() * sizeof(float), Flush::back,
                               static_cast<std::size_t>(kClaimed * dim) * sizeof(float));
          if (from.span() != 0) std::memcpy(buffer.data(), from.data(), buffer.size());
          return buffer;
        };
        const GuardedBuffer k = keep(problem.k, 17), v = keep(problem.v, 9);
        AttentionArgs args = problem.args();
        args.k.data = k.data();
        args.v.data = v.data();
        const auto fp64 = attention_fp64(args);
        const auto naive = attention_naive_f32(args);
        args.seqused_k = &used;
        args.k.shape[2] = args.v.shape[2] = kClaimed;
        for (const Pipeline pipeline : kPipelines) {
          SCOPED_TRACE(::testing::Message() << c << " pipeline " << static_cast<int>(pipeline));
          args.pipeline = pipeline;
          problem.poison_outputs();
          const Status status = attention_forward(context, args);
          ASSERT_TRUE(status.ok()) << status.message();
          const Outcome got = problem.outcome();
          ASSERT_TRUE(meets_error_promise(got.out, got.lse, fp64, naive));
        }
      }
    }
  }
}

// q, k and v as thirds of one fused [batch, seq, 3, heads, dim] buffer, as a QKV projection leaves them.
TEST_P(Memory, FusedProjectionsAreViews) {
  constexpr std::int64_t batch = 2, heads = 3, seq = 37, dim = 20;
  const GuardedTensor fused({batch, seq, 3 * heads, dim}, Layout::bhsd, Flush::back);
  Random random(5);
  fused.fill_normal(random);
  const Shape stride{seq * 3 * heads * dim, dim, 3 * heads * dim, 1};
  AttentionArgs args;
  args.q = {fused.data(), {batch, heads, seq, dim}, stride};
  args.k = {fused.data() + heads * dim, {batch, heads, seq, dim}, stride};
  args.v = {fused.data() + 2 * heads * dim, {batch, heads, seq, dim}, stride};
  const GuardedTensor out({batch, heads, seq, dim}, Layout::bshd, Flush::back);
  args.out = out.output();
  args.is_causal = true;
  const std::vector<float> before(fused.data(), fused.data() + fused.span());
  const Status status = attention_forward(context, args);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(meets_error_promise(out.elements(), {}, attention_fp64(args), attention_naive_f32(args)));
  EXPECT_TRUE(same_bits(std::span<const float>(fused.data(), fused.span()), before)) << "inputs changed";
}

TEST_P(Memory, KeysAndValuesMayBeTheSameMemory) {
  Case c;
  c.q_heads = 4;
  c.q_len = 9;
  c.kv_len = 50;
  c.head_dim = 24;
  c.v_head_dim = 16;  // as in multi-head latent attention, where values are the leading columns of the keys
  const Problem problem(c);
  AttentionArgs args = problem.args();
  args.v = args.k;
  args.v.shape[3] = 16;
  problem.poison_outputs();
  const Status status = attention_forward(context, args);
  ASSERT_TRUE(status.ok()) << status.message();
  const Outcome got = problem.outcome();
  EXPECT_TRUE(meets_error_promise(got.out, got.lse, attention_fp64(args), attention_naive_f32(args)));
}

TEST_P(Memory, EmptyProblemsWriteNothingAndSucceed) {
  for (int which = 0; which < 3; ++which) {
    Case c;
    c.q_len = 3;
    c.kv_len = 5;
    if (which == 0) c.batch = 0;
    if (which == 1) c.q_len = 0;
    if (which == 2) c.q_heads = 0;
    const Problem problem(c);
    AttentionArgs args = problem.args();
    for (const bool null_data : {false, true}) {
      if (null_data)
        args.q.data = args.k.data = args.v.data = args.out.data = nullptr, args.lse.data = nullptr;
      if (null_data && which != 0) args.k.data = problem.k.data(), args.v.data = problem.v.data();
      const Status status = attention_forward(context, args);
      EXPECT_TRUE(status.ok()) << c << ": " << status.message();
      EXPECT_TRUE(problem.outputs_untouched());
    }
  }
}

TEST_P(Memory, NoKeysMakeEveryRowZero) {
  for (const bool null_keys : {false, true}) {
    Case c;
    c.batch = 2;
    c.q_heads = 3;
    c.q_len = 20;
    c.kv_len = 0;
    c.out_layout = Layout::padded;
    c.lse = GuardedLse::Layout::padded;
    const Problem problem(c);
    AttentionArgs args = problem.args();
    if (null_keys) args.k.data = args.v.data = nullptr;
    problem.poison_outputs();
    const Status status = attention_forward(context, args);
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_TRUE(problem.borders_intact());
    const Outcome got = problem.outcome();
    EXPECT_TRUE(same_bits(got.out, std::vector<float>(got.out.size(), 0.0f)));
    EXPECT_TRUE(
        same_bits(got.lse, std::vector<float>(got.lse.size(), -std::numeric_limits<float>::infinity())));
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, Memory, ::testing::ValuesIn(host_isas()), StringName());

}  // namespace
}  // namespace kumiko::test
