// SPDX-License-Identifier: Apache-2.0
// A plan's run allocates nothing, unless more runs overlap than ever before. Counted over the whole process.
#include <gtest/gtest.h>
#include <oneapi/tbb/task_group.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <latch>
#include <random>
#include <span>
#include <thread>
#include <vector>

#include "runtime/plan.h"
#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/runtime/int8_case.h"
#include "tests/runtime/server_step.h"
#include "tests/support/alloc_counter.h"

namespace kumiko::test {
namespace {

std::vector<Case> cases() {
  std::vector<Case> list(4);
  list[0].q_len = list[0].kv_len = 200;
  list[0].q_heads = 4;
  list[0].is_causal = true;
  list[1].kv_len = 4000;  // decode, split along the keys
  list[1].q_heads = 8;
  list[1].kv_heads = 1;
  list[2].batch = 3;
  list[2].q_len = 9;
  list[2].kv_len = 600;
  list[2].seqused = {600, 0, 77};
  list[3].q_len = 0;
  return list;
}

struct Allocation : ::testing::TestWithParam<std::string> {
  Context make(int threads) {
    ContextOptions options;
    options.executor = GetParam();
    options.num_threads = threads;
    options.topology = flat_machine(threads);
    return context_of(options);
  }
};

TEST_P(Allocation, RunsAfterTheFirstAllocateNothing) {
  for (const int threads : {1, 2, 4}) {
    const Context context = make(threads);
    for (const Case& c : cases()) {
      const Problem problem(c);
      Plan prepared;
      const Status status = plan(context, problem.args(), &prepared);
      ASSERT_TRUE(status.ok()) << status.message();
      ASSERT_TRUE(prepared.run(problem.args()).ok());
      bool ok = true;
      std::int64_t calls = 0;
      {
        const AllocationCount count;
        for (int repeat = 0; repeat < 50; ++repeat) ok = prepared.run(problem.args()).ok() && ok;
        calls = count.calls();
      }
      EXPECT_TRUE(ok);
      EXPECT_EQ(calls, 0) << GetParam() << ", " << threads << " threads: " << c;
    }
  }
}

/// Runs a plan for `args` a few times and counts.
void expect_runs_without_allocations(const Context& context, const AttentionArgs& args) {
  Plan prepared;
  const Status status = plan(context, args, &prepared);
  ASSERT_TRUE(status.ok()) << status.message();
  ASSERT_TRUE(prepared.run(args).ok());
  bool ok = true;
  std::int64_t calls = 0;
  {
    const AllocationCount count;
    for (int repeat = 0; repeat < 4; ++repeat) ok = prepared.run(args).ok() && ok;
    calls = count.calls();
  }
  EXPECT_TRUE(ok);
  EXPECT_EQ(calls, 0);
}

TEST_P(Allocation, RunsOfEveryKindOfMaskTermAndOutputAllocateNothing) {
  std::vector<Case> list(5);
  Case& terms = list[0];
  terms.softcap = 3.0f, terms.bias = TermLayout::heads, terms.alibi = 2, terms.mask = TermLayout::full;
  terms.sinks = true, terms.row_max = GuardedLse::Layout::padded;
  Case& sequences = list[1];
  sequences.seqused = {700, 0}, sequences.causal_sequences = {1, 0}, sequences.prefix_lens = {9, 3};
  sequences.window_left = 40, sequences.window_sink_tokens = 5;
  list[2].lists = {true, 16, 24, true};
  list[3].lists = {false, 3, 5, false}, list[3].mask = TermLayout::keys, list[3].is_causal = true;
  list[4].k_layout = list[4].v_layout = Layout::bshd;  // heads in turn
  const Context context = make(3);
  for (Case& c : list) {
    c.batch = 2, c.q_heads = 4, c.kv_heads = 2, c.kv_len = 700, c.head_dim = 24, c.v_head_dim = 20;
    for (const std::int64_t q_len : {1, 60}) {
      c.q_len = q_len;
      const Problem problem(c);
      for (std::size_t p = 0; p < std::size(kPipelines); p += thinned<std::size_t>(1, 3, 3)) {
        SCOPED_TRACE(::testing::Message() << c << " pipeline " << p);
        ASSERT_NO_FATAL_FAILURE(expect_runs_without_allocations(context, problem.args(kPipelines[p])));
      }
    }
  }
}

TEST_P(Allocation, RunsOfEveryTypeAndPrecisionAllocateNothing) {
  ContextOptions options;
  options.executor = GetParam(), options.num_threads = 2, options.topology = flat_machine(2);
  for (const std::string& isa : swept_isas()) {
    options.isa = isa;
    const Context context = context_of(options);
    for (const std::int64_t q_len : {1, 40}) {
      Case c;
      c.q_heads = 4, c.kv_heads = 2, c.q_len = q_len, c.kv_len = 530, c.head_dim = 24, c.v_head_dim = 20;
      c.v_layout = Layout::padded;
      SCOPED_TRACE(::testing::Message() << isa << ": " << c);
      const Int8Problem integers(c);
      ASSERT_NO_FATAL_FAILURE(expect_runs_without_allocations(context, integers.args()));
      const Problem problem(c);
      problem.v.at(0, 0, 300, 3) = INFINITY;  // added apart
      for (const DataType type : {DataType::bf16, DataType::f16}) {
        const NarrowTensor q(problem.q, type, Flush::back), k(problem.k, type, Flush::back),
            v(problem.v, type, Flush::back), out(problem.out, type, Flush::back);
        q.copy(problem.q), k.copy(problem.k), v.copy(problem.v);
        AttentionArgs args = problem.args();
        args.q = q.input(), args.k = k.input(), args.v = v.input(), args.out = out.output();
        for (const Precision precision : {Precision::standard, Precision::half}) {
          args.precision = precision;
          Plan unused;
          if (plan(context, args, &unused).code() == Code::unsupported) continue;
          ASSERT_NO_FATAL_FAILURE(expect_runs_without_allocations(context, args));
        }
      }
    }
  }
}

TEST_P(Allocation, RunsOnPagesAllocateNothing) {
  const Context context = make(3);
  for (const bool has_lists : {false, true}) {
    for (const bool has_tiles : {false, true}) {
      for (const DataType type : {DataType::f32, DataType::bf16, DataType::f16}) {
        StepShape s;
        s.sequences = {{1, 1100}, {1, 1090, 0, 1024}, {30, 300}, {0, 20}, {3, 530}};
        s.page_lists = has_lists, s.key_tiles = has_tiles, s.type = type, s.page_keys = has_tiles ? 16 : 20;
        SCOPED_TRACE(::testing::Message() << s);
        ASSERT_NO_FATAL_FAILURE(expect_runs_without_allocations(context, ServerStep(s).args()));
        if (has_lists) continue;
        s.page_keys = 0, s.key_tiles = false, s.lists = {true, 8, 16, false};
        ASSERT_NO_FATAL_FAILURE(expect_runs_without_allocations(context, ServerStep(s).args()));
      }
    }
  }
}

// A decode step that leaves every row block its splits allocates nothing either.
TEST_P(Allocation, UpdatesWithinSplitsAllocateNothing) {
  const Context context = make(4);
  Case c = cases()[2];
  std::vector<std::int32_t> lengths{530, 0, 77};
  c.seqused = lengths;
  const Problem problem(c);
  Plan prepared;
  ASSERT_TRUE(plan(context, problem.args(), &prepared).ok());
  bool ok = true;
  std::int64_t calls = 0;
  {
    const AllocationCount count;
    for (int step = 0; step < 50; ++step) {
      ++lengths[0], ++lengths[2];
      ok = prepared.update(lengths).ok() && ok;
    }
    calls = count.calls();
  }
  EXPECT_TRUE(ok);
  EXPECT_EQ(calls, 0);
}

/// 64 sequences of decode; chunks of a prompt; decode in a window; one long sequence among few.
std::vector<AttentionArgs> growing(std::vector<std::int32_t>& lengths) {
  std::vector<AttentionArgs> calls(5);
  const std::int64_t batch[] = {6, 64, 3, 5, 2}, q_len[] = {1, 1, 200, 1, 1},
                     kv_len[] = {6000, 4096, 2500, 8000, 20000};
  for (std::size_t i = 0; i < calls.size(); ++i) {
    AttentionArgs& args = calls[i];
    args.q = ConstTensor::bhsd(nullptr, batch[i], 8, q_len[i], 64);
    args.k = args.v = ConstTensor::bhsd(nullptr, batch[i], 2, kv_len[i], 64);
    args.out = Tensor::bhsd(nullptr, batch[i], 8, q_len[i], 64);
    args.is_causal = true;
    args.seqused_k = lengths.data();
  }
  calls[3].window_left = 3000;
  // Tasks have several heads, as many as the lengths allow. The first: others need more scratch.
  calls[0].k = calls[0].v = ConstTensor::bshd(nullptr, batch[0], kv_len[0], 8, 64);
  return calls;
}

/// The step's lengths of up to `most` keys: one more each, others for one, others for all, one long, none,
/// all.
void walk(int step, std::int32_t most, std::mt19937& random, std::span<std::int32_t> lengths) {
  std::uniform_int_distribution<std::int32_t> any(0, most);
  std::uniform_int_distribution<std::size_t> one(0, lengths.size() - 1);
  for (std::int32_t& length : lengths) {
    if (step % 8 < 3) length = std::min(length + 1, most);
    if (step % 8 == 4) length = any(random);
    if (step % 8 == 5) length = 1;
    if (step % 8 == 6) length = 0;
    if (step % 8 == 7) length = most;
  }
  if (step % 8 == 3) lengths[one(random)] = any(random);
  if (step % 8 == 5) lengths[one(random)] = most;
}

TEST_P(Allocation, UpdatesOfAllLengthsAllocateNothing) {
  for (const char* machine : {"pack:1 l3:1 core:1 pu:1", "pack:1 l3:1 core:4 pu:1", "numa:2 l3:1 core:4 pu:1",
                              "numa:4 l3:1 core:3 pu:1"}) {
    for (const char* policy : {"heads_first", "flat"}) {
      ContextOptions options;
      options.executor = GetParam();
      options.topology = machine;
      options.policy = policy;
      const Context context = context_of(options);
      std::vector<std::int32_t> lengths(64, 700);
      for (const AttentionArgs& args : growing(lengths)) {
        SCOPED_TRACE(::testing::Message() << machine << ", " << policy << ", " << args.k.shape[2] << " keys");
        const std::span<std::int32_t> used =
            std::span(lengths).first(static_cast<std::size_t>(args.q.shape[0]));
        std::fill(used.begin(), used.end(), 1);
        Plan prepared;
        const Status status = plan(context, args, &prepared);
        ASSERT_TRUE(status.ok()) << status.message();
        std::mt19937 random(3);
        for (int step = 0; step < 160; ++step) {
          walk(step, static_cast<std::int32_t>(args.k.shape[2]), random, used);
          const AllocationCount count;
          const bool ok = prepared.update(used).ok();
          const std::int64_t calls = count.calls();
          ASSERT_TRUE(ok);
          ASSERT_EQ(calls, 0) << "step " << step;
        }
      }
    }
  }
}

// First makes one state per caller, as if all runs had overlapped: which runs do overlap depends on timing.
TEST_P(Allocation, RunsAtTheSameTimeAllocateNothingOnceThereIsAStateForEach) {
  const Context context = make(2);
  const Case c = cases()[1];
  Plan prepared;
  {
    const Problem problem(c);
    const Status status = plan(context, problem.args(), &prepared);
    ASSERT_TRUE(status.ok()) << status.message();
  }
  constexpr int kCallers = 4;
  std::vector<RunState*> states;
  for (int n = 0; n < kCallers; ++n)
    states.push_back(impl_of(prepared)->states.acquire(impl_of(prepared)->partition));
  for (RunState* state : states) impl_of(prepared)->states.release(state);
  std::latch ready(kCallers + 1), go(1), done(kCallers), leave(1);
  std::vector<std::thread> threads;
  std::atomic<int> failed{0};
  for (int t = 0; t < kCallers; ++t)
    threads.emplace_back([&] {
      const Problem problem(c);
      // oneTBB allocates a record for each thread at its first task. Whether that happens in a run depends on
      // timing, so every caller runs a task first.
      oneapi::tbb::task_group().run_and_wait([] {});
      failed += !prepared.run(problem.args()).ok();
      ready.arrive_and_wait();
      go.wait();
      for (int repeat = 0; repeat < 50; ++repeat) failed += !prepared.run(problem.args()).ok();
      done.count_down();
      leave.wait();
    });
  ready.arrive_and_wait();
  std::int64_t calls = 0;
  {
    const AllocationCount count;
    go.count_down();
    done.wait();
    calls = count.calls();
  }
  leave.count_down();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failed, 0);
  EXPECT_EQ(calls, 0) << GetParam();
}

TEST_P(Allocation, ARunAfterAFailedOneAllocatesNothing) {
  const Context context = make(2);
  const Problem problem(cases()[0]);
  Plan prepared;
  ASSERT_TRUE(plan(context, problem.args(), &prepared).ok());
  ASSERT_TRUE(prepared.run(problem.args()).ok());
  AttentionArgs wrong = problem.args();
  wrong.scale = 2.0f;
  EXPECT_FALSE(prepared.run(wrong).ok());
  ASSERT_TRUE(prepared.run(problem.args()).ok());
  const AllocationCount count;
  const bool ok = prepared.run(problem.args()).ok();
  EXPECT_EQ(count.calls(), 0);
  EXPECT_TRUE(ok);
}

INSTANTIATE_TEST_SUITE_P(Executor, Allocation, ::testing::ValuesIn(kAllExecutors), StringName());

}  // namespace
}  // namespace kumiko::test
