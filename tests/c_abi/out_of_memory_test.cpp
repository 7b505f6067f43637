// SPDX-License-Identifier: Apache-2.0
// Every allocation the library makes on a caller's thread, and every mapping of its arenas on any thread, is
// made to fail in turn. Each failure must come back as out_of_memory with the output parameters and the
// outputs untouched, leave nothing allocated, and the next attempt must succeed with the usual bits.
#include <gtest/gtest.h>
#include <kumiko/attention.h>
#include <kumiko/attention_backward_c.h>
#include <kumiko/attention_c.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <latch>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/c_abi/failing_memory.h"
#include "tests/support/threads.h"

namespace {

// While set, a thread yields after each row that it computes. Otherwise, on a machine of one CPU, a run would
// end before another thread could start one.
std::atomic<bool> rows_make_way{false};

}  // namespace

// Each row's log-sum-exp calls log2 once, and the library is linked with --wrap=log2.
extern "C" double __real_log2(double x);
extern "C" double __wrap_log2(double x) {
  if (rows_make_way) std::this_thread::yield();
  return __real_log2(x);
}

namespace {

using namespace kumiko::test;

// Which requests are refused.
enum class Memory { heap, arenas };

// Calls `attempt` with 0, 1, 2, ... requests allowed until it succeeds. Every earlier call must return
// out_of_memory and leave nothing allocated. Returns the number of requests that were needed.
template <class Attempt>
long fail_each_request(Memory memory, Attempt&& attempt, bool leaves_nothing = true) {
  // Threads of an earlier test's context may still free something.
  if (leaves_nothing) {
    EXPECT_TRUE(all_others_come_to_rest());
  }
  for (long allowed = 0; allowed < 100000; ++allowed) {
    const Footprint before = footprint();
    kumiko_status status;
    {
      const FailingHeap heap(memory == Memory::heap ? allowed : -1);
      const FailingArenas arenas(memory == Memory::arenas ? allowed : -1);
      status = attempt();
    }
    if (status == KUMIKO_OK) return allowed;
    EXPECT_EQ(status, KUMIKO_OUT_OF_MEMORY) << "with " << allowed << " requests: " << kumiko_last_error();
    EXPECT_STRNE(kumiko_last_error(), "") << "with " << allowed << " requests";
    if (leaves_nothing) {
      if (footprint() != before) all_others_come_to_rest();
      EXPECT_EQ(footprint(), before) << "with " << allowed << " requests";
    }
    if (testing::Test::HasFailure()) return -1;
  }
  ADD_FAILURE() << "never succeeded";
  return -1;
}

// 2 x 4 heads of 9 queries and 1300 keys: three splits, so that few heads give many tasks and many states to
// merge.
struct Problem {
  static constexpr std::int64_t kBatch = 2, kQueryHeads = 4, kKvHeads = 2, kQueries = 9, kKeys = 1300,
                                kDim = 8;
  std::vector<float> q, k, v, out, lse;
  kumiko_attention_args args = KUMIKO_ATTENTION_ARGS_INIT;
  explicit Problem(std::int64_t dim = kDim)
      : q(static_cast<std::size_t>(kBatch * kQueryHeads * kQueries * dim)),
        k(static_cast<std::size_t>(kBatch * kKvHeads * kKeys * dim)),
        v(k.size()),
        out(q.size()),
        lse(static_cast<std::size_t>(kBatch * kQueryHeads * kQueries)) {
    std::uint32_t seed = 12345;
    for (auto* tensor : {&q, &k, &v}) {
      for (float& x : *tensor) {
        seed = seed * 1664525u + 1013904223u;
        x = static_cast<float>(static_cast<std::int32_t>(seed)) * 0x1p-30f;
      }
    }
    args.q = kumiko_const_tensor_bhsd(q.data(), kBatch, kQueryHeads, kQueries, dim);
    args.k = kumiko_const_tensor_bhsd(k.data(), kBatch, kKvHeads, kKeys, dim);
    args.v = kumiko_const_tensor_bhsd(v.data(), kBatch, kKvHeads, kKeys, dim);
    args.out = kumiko_tensor_bhsd(out.data(), kBatch, kQueryHeads, kQueries, dim);
    args.lse = lse.data();
    clear();
  }
  void clear() {
    out.assign(out.size(), 77.0f);
    lse.assign(lse.size(), 77.0f);
  }
  bool is_untouched() const {
    for (const auto* tensor : {&out, &lse}) {
      for (const float x : *tensor) {
        if (x != 77.0f) return false;
      }
    }
    return true;
  }
  std::vector<std::uint32_t> bits() const {
    std::vector<std::uint32_t> all(out.size() + lse.size());
    std::memcpy(all.data(), out.data(), out.size() * sizeof(float));
    std::memcpy(all.data() + out.size(), lse.data(), lse.size() * sizeof(float));
    return all;
  }
};

// The bits of a problem, from a context with enough memory.
const std::vector<std::uint32_t>& expected_bits(std::int64_t dim = Problem::kDim) {
  static std::vector<std::uint32_t> known[2];
  std::vector<std::uint32_t>& bits = known[dim == Problem::kDim ? 0 : 1];
  if (bits.empty()) {
    kumiko_context_options options = KUMIKO_CONTEXT_OPTIONS_INIT;
    options.executor = "serial";
    options.num_threads = 1;
    kumiko_context* context = nullptr;
    EXPECT_EQ(kumiko_context_create(&options, &context), KUMIKO_OK) << kumiko_last_error();
    Problem problem(dim);
    EXPECT_EQ(kumiko_attention_forward(context, &problem.args), KUMIKO_OK) << kumiko_last_error();
    bits = problem.bits();
    kumiko_context_destroy(context);
  }
  return bits;
}

// Runs body(caller, start) on `callers` threads.
template <class Body>
void together(int callers, Body body) {
  std::latch start(callers);
  std::vector<std::thread> threads;
  for (int caller = 0; caller < callers; ++caller) threads.emplace_back([&, caller] { body(caller, start); });
  for (std::thread& thread : threads) thread.join();
}

class OutOfMemory : public testing::TestWithParam<const char*> {
 protected:
  kumiko_context_options options() const {
    kumiko_context_options made = KUMIKO_CONTEXT_OPTIONS_INIT;
    made.executor = GetParam();
    made.topology = "numa:4 core:1 pu:1";  // four seats, each with an arena, wherever this runs
    return made;
  }
  kumiko_context* create() const {
    const kumiko_context_options options = this->options();
    kumiko_context* context = nullptr;
    EXPECT_EQ(kumiko_context_create(&options, &context), KUMIKO_OK) << kumiko_last_error();
    return context;
  }
  static void expect_usable(const kumiko_context* context, std::int64_t dim = Problem::kDim) {
    Problem problem(dim);
    ASSERT_EQ(kumiko_attention_forward(context, &problem.args), KUMIKO_OK) << kumiko_last_error();
    EXPECT_EQ(problem.bits(), expected_bits(dim));
  }
};

TEST_P(OutOfMemory, ContextCreateReportsEachFailure) {
  const kumiko_context_options options = this->options();
  kumiko_context* context = nullptr;
  {  // The first context makes oneTBB's and libgomp's pools, which stay until the process ends.
    expected_bits();
    kumiko_context_destroy(create());
  }
  EXPECT_GT(fail_each_request(Memory::heap,
                              [&] {
                                const kumiko_status status = kumiko_context_create(&options, &context);
                                EXPECT_EQ(context != nullptr, status == KUMIKO_OK);
                                return status;
                              }),
            0);
  ASSERT_NE(context, nullptr);
  int32_t threads = 0;
  EXPECT_EQ(kumiko_context_num_threads(context, &threads), KUMIKO_OK);
  EXPECT_EQ(threads, 4);
  expect_usable(context);
  kumiko_context_destroy(context);
}

TEST_P(OutOfMemory, PlanCreateReportsEachFailure) {
  for (const Memory memory : {Memory::heap, Memory::arenas}) {
    kumiko_context* const context = create();
    const Problem problem;
    kumiko_plan* plan = nullptr;
    EXPECT_GT(fail_each_request(memory,
                                [&] {
                                  const kumiko_status status =
                                      kumiko_plan_create(context, &problem.args, &plan);
                                  EXPECT_EQ(plan != nullptr, status == KUMIKO_OK);
                                  return status;
                                }),
              memory == Memory::heap ? 0 : 3)  // an arena for each of the four domains
        << "nothing was refused";
    const char* text = nullptr;
    if (memory == Memory::heap) {
      EXPECT_GT(fail_each_request(memory, [&] { return kumiko_plan_explain(plan, &text); }), 0);
    }
    kumiko_plan_destroy(plan);
    expect_usable(context);
    kumiko_context_destroy(context);
  }
}

TEST_P(OutOfMemory, ForwardReportsEachFailureAndThenSucceeds) {
  for (const Memory memory : {Memory::heap, Memory::arenas}) {
    kumiko_context* const context = create();
    Problem problem;
    EXPECT_GT(fail_each_request(memory,
                                [&] {
                                  const kumiko_status status =
                                      kumiko_attention_forward(context, &problem.args);
                                  EXPECT_EQ(problem.is_untouched(), status != KUMIKO_OK);
                                  return status;
                                }),
              0);
    EXPECT_EQ(problem.bits(), expected_bits());
    expect_usable(context);
    kumiko_context_destroy(context);
  }
}

// A plan of gradients, whose runs need none, and the one call.
TEST_P(OutOfMemory, GradientsReportEachFailureAndThenSucceed) {
  for (const Memory memory : {Memory::heap, Memory::arenas}) {
    kumiko_context* const context = create();
    Problem problem;
    ASSERT_EQ(kumiko_attention_forward(context, &problem.args), KUMIKO_OK) << kumiko_last_error();
    kumiko_context* const fresh = create();
    std::vector<float> dq(problem.q.size(), 77.0f), dk(problem.k.size()), dv(problem.v.size());
    kumiko_backward_args args = KUMIKO_BACKWARD_ARGS_INIT;
    args.forward = &problem.args;
    args.dout = kumiko_const_tensor_bhsd(problem.out.data(), 2, 4, 9, Problem::kDim);
    args.dq = kumiko_tensor_bhsd(dq.data(), 2, 4, 9, Problem::kDim);
    args.dk = kumiko_tensor_bhsd(dk.data(), 2, 2, 1300, Problem::kDim);
    args.dv = kumiko_tensor_bhsd(dv.data(), 2, 2, 1300, Problem::kDim);
    kumiko_backward_plan* plan = nullptr;
    EXPECT_GT(fail_each_request(memory,
                                [&] {
                                  const kumiko_status status =
                                      kumiko_backward_plan_create(fresh, &args, &plan);
                                  EXPECT_EQ(plan != nullptr, status == KUMIKO_OK);
                                  return status;
                                }),
              0);
    {
      const FailingHeap heap(0);
      const FailingArenas arenas(0);
      EXPECT_EQ(kumiko_backward_plan_run(plan, &args), KUMIKO_OK) << kumiko_last_error();
    }
    const std::vector<float> want = dq;
    dq.assign(dq.size(), 77.0f);
    kumiko_context* const another = create();
    EXPECT_GT(fail_each_request(memory,
                                [&] {
                                  const kumiko_status status = kumiko_attention_backward(another, &args);
                                  EXPECT_EQ(dq[0] == 77.0f, status != KUMIKO_OK);
                                  return status;
                                }),
              0);
    EXPECT_EQ(dq, want);
    kumiko_backward_plan_destroy(plan);
    for (kumiko_context* one : {another, fresh, context}) kumiko_context_destroy(one);
  }
}

// Only the split states of very long sequences are not taken by plan(). A failed update leaves the plan's
// lengths unchanged, and a later one succeeds.
TEST_P(OutOfMemory, PlanUpdateReportsEachFailureAndLeavesThePlanAsItWas) {
  const std::vector<std::int32_t> before{1, 40}, after{1300, 1299};
  // Room for keys that no length here reaches: pages that nobody touches.
  constexpr std::int64_t kRoom = std::int64_t{3} << 20;
  const auto with_room = [](std::vector<float>& keys) {
    const auto touched = static_cast<std::int64_t>(keys.size());
    keys.reserve(static_cast<std::size_t>(touched + kRoom * Problem::kDim));
    return keys.data();
  };
  const auto has_room_for_long_ones = [&](Problem& problem) {
    problem.args.k.data = with_room(problem.k);
    problem.args.v.data = with_room(problem.v);
    problem.args.k.shape[2] = problem.args.v.shape[2] = kRoom;
  };
  const auto bits_with = [&](const kumiko_context* context, kumiko_plan* plan,
                             const std::vector<std::int32_t>& lengths) {
    Problem problem;
    problem.args.seqused_k = lengths.data();
    has_room_for_long_ones(problem);
    const kumiko_status status =
        plan ? kumiko_plan_run(plan, &problem.args) : kumiko_attention_forward(context, &problem.args);
    EXPECT_EQ(status, KUMIKO_OK) << kumiko_last_error();
    return problem.bits();
  };
  kumiko_context* const context = create();
  const auto want_before = bits_with(context, nullptr, before),
             want_after = bits_with(context, nullptr, after);
  Problem problem;
  problem.args.seqused_k = before.data();
  has_room_for_long_ones(problem);
  kumiko_plan* plan = nullptr;
  ASSERT_EQ(kumiko_plan_create(context, &problem.args, &plan), KUMIKO_OK) << kumiko_last_error();
  std::int64_t bytes_before = 0, bytes = 0;
  ASSERT_EQ(kumiko_plan_workspace_bytes(plan, &bytes_before), KUMIKO_OK);
  long allowed = 0;
  for (; allowed < 1000; ++allowed) {
    kumiko_status status;
    {
      const FailingHeap heap(allowed);
      const FailingArenas arenas(allowed);
      status = kumiko_plan_update(plan, after.data(), 2);
    }
    if (status == KUMIKO_OK) break;
    ASSERT_EQ(status, KUMIKO_OUT_OF_MEMORY) << kumiko_last_error();
    EXPECT_EQ(bits_with(context, plan, before), want_before) << "with " << allowed << " requests";
    EXPECT_EQ(kumiko_plan_workspace_bytes(plan, &bytes), KUMIKO_OK);
    EXPECT_EQ(bytes, bytes_before) << "with " << allowed << " requests";
  }
  EXPECT_GT(allowed, 0) << "the states of the rows";
  EXPECT_EQ(bits_with(context, plan, after), want_after);
  kumiko_plan_destroy(plan);
  kumiko_context_destroy(context);
}

// The search for shared pages asks for memory, too.
TEST_P(OutOfMemory, PlanUpdateOfPagesLeavesThePlanAsItWas) {
  static constexpr std::int32_t kTable[2][5] = {{0, 1, 2, 3, 4}, {0, 1, 2, 5, 6}}, kBefore[2] = {1, 40},
                                kAfter[2] = {1300, 1299};
  kumiko_context* const context = create();
  Problem problem;
  problem.args.q.shape[2] = problem.args.out.shape[2] = 1;
  problem.args.k = kumiko_const_tensor_bhsd(problem.k.data(), 10, 2, 260, Problem::kDim);
  problem.args.v = kumiko_const_tensor_bhsd(problem.v.data(), 10, 2, 260, Problem::kDim);
  problem.args.seqused_k = kBefore;
  problem.args.block_table = &kTable[0][0], problem.args.max_pages = 5;
  kumiko_plan* plan = nullptr;
  ASSERT_EQ(kumiko_plan_create(context, &problem.args, &plan), KUMIKO_OK) << kumiko_last_error();
  EXPECT_GT(fail_each_request(
                Memory::heap,
                [&] {
                  EXPECT_EQ(kumiko_plan_run(plan, &problem.args), KUMIKO_OK) << kumiko_last_error();
                  return kumiko_plan_update_pages(plan, kAfter, 2, problem.args.block_table, nullptr);
                },
                false),
            0);
  problem.args.seqused_k = kAfter;
  EXPECT_EQ(kumiko_plan_run(plan, &problem.args), KUMIKO_OK) << kumiko_last_error();
  kumiko_plan_destroy(plan);
  kumiko_context_destroy(context);
}

// The first run of a plan allocates nothing: its state and the scratch were made with the plan. If another
// plan has enlarged the context's scratch since, that is enough, too.
TEST_P(OutOfMemory, TheFirstRunNeedsNoMemory) {
  kumiko_context* const context = create();
  Problem problem, larger(64);
  kumiko_plan* plan = nullptr;
  ASSERT_EQ(kumiko_plan_create(context, &problem.args, &plan), KUMIKO_OK) << kumiko_last_error();
  expect_usable(context, 64);
  {
    const FailingHeap heap(0);
    const FailingArenas arenas(0);
    EXPECT_EQ(kumiko_plan_run(plan, &problem.args), KUMIKO_OK) << kumiko_last_error();
  }
  EXPECT_EQ(problem.bits(), expected_bits());
  kumiko_plan_destroy(plan);
  kumiko_context_destroy(context);
}

// Runs of one plan that overlap need a state each. A run that gets none returns an error; the others and the
// plan are not affected.
TEST_P(OutOfMemory, RunsAtTheSameTimeSucceedOrSayThatMemoryIsShort) {
  kumiko_context* const context = create();
  constexpr int kCallers = 6;
  std::vector<std::unique_ptr<Problem>> problems;
  for (int caller = 0; caller < kCallers; ++caller) problems.push_back(std::make_unique<Problem>());
  const std::vector<std::uint32_t> want = expected_bits();
  std::atomic<int> wrong{0}, ran{0};
  // Threads of an earlier test's context may still free something.
  EXPECT_TRUE(all_others_come_to_rest());
  rows_make_way = true;
  for (long allowed = 0; allowed < 4; ++allowed) {  // a state takes four requests
    std::atomic<int> refused{0};
    // On a busy machine the runs may not overlap, so repeat until two did.
    for (int round = 0; round < 20 || (refused == 0 && round < 500); ++round) {
      kumiko_plan* plan = nullptr;
      ASSERT_EQ(kumiko_plan_create(context, &problems[0]->args, &plan), KUMIKO_OK) << kumiko_last_error();
      const Footprint before = footprint();
      together(kCallers, [&](int caller, std::latch& start) {
        Problem& problem = *problems[static_cast<std::size_t>(caller)];
        problem.clear();
        start.arrive_and_wait();
        kumiko_status status;
        {
          const FailingHeap heap(allowed);
          status = kumiko_plan_run(plan, &problem.args);
        }
        if (status == KUMIKO_OK) {
          ++ran;
          wrong += problem.bits() != want;
        } else {
          ++refused;
          wrong += status != KUMIKO_OUT_OF_MEMORY || !problem.is_untouched() || !*kumiko_last_error();
        }
      });
      EXPECT_EQ(footprint(), before) << "a state that was begun is not given back";
      problems[0]->clear();
      ASSERT_EQ(kumiko_plan_run(plan, &problems[0]->args), KUMIKO_OK) << kumiko_last_error();
      EXPECT_EQ(problems[0]->bits(), want);
      kumiko_plan_destroy(plan);
    }
    EXPECT_GT(refused, 0) << "no two callers ever met with " << allowed << " requests: the test says nothing";
  }
  rows_make_way = false;
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(ran, 0);
  expect_usable(context);
  kumiko_context_destroy(context);
}

// One caller's plan needs more scratch than there is memory. The others have their scratch and must not be
// affected.
TEST_P(OutOfMemory, ScratchThatCannotGrowLeavesOtherCallersAlone) {
  kumiko_context* const context = create();
  Problem small;
  kumiko_plan* plan = nullptr;
  ASSERT_EQ(kumiko_plan_create(context, &small.args, &plan), KUMIKO_OK) << kumiko_last_error();
  const std::vector<std::uint32_t> want = expected_bits();
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0};
  std::thread other([&] {
    while (!stop) {
      small.clear();
      wrong += kumiko_plan_run(plan, &small.args) != KUMIKO_OK || small.bits() != want;
    }
  });
  const Problem large(256);
  for (int round = 0; round < 25; ++round) {
    for (long allowed = 0; allowed < 4; ++allowed) {
      kumiko_plan* none = nullptr;
      const FailingArenas arenas(allowed);
      EXPECT_EQ(kumiko_plan_create(context, &large.args, &none), KUMIKO_OUT_OF_MEMORY) << kumiko_last_error();
      EXPECT_EQ(none, nullptr);
    }
  }
  stop = true;
  other.join();
  EXPECT_EQ(wrong, 0);
  kumiko_plan_destroy(plan);
  kumiko_context_destroy(context);
}

INSTANTIATE_TEST_SUITE_P(Executors, OutOfMemory, testing::Values("serial", "openmp", "tbb"),
                         [](const auto& executor) { return std::string(executor.param); });

// The first call makes the process-wide context. If that fails for lack of memory, a later call must try
// again.
// A context that could not be made does not use up the name of its trace: the next one writes FILE, not
// FILE.2.
TEST(OutOfMemoryDefault, ATraceThatFailsLeavesItsName) {
  const std::string file = testing::TempDir() + "kumiko_out_of_memory_trace_" + std::to_string(getpid());
  kumiko::ContextOptions options;
  options.executor = "serial";
  options.trace = file;
  kumiko::Context context;
  long allowed = 0;
  for (; !context && allowed < 100000; ++allowed) {
    kumiko::Status status;
    {
      const FailingHeap heap(allowed);
      status = kumiko::Context::create(options, &context);
    }
    ASSERT_TRUE(status.ok() || status.code() == kumiko::Code::out_of_memory) << status.message();
  }
  EXPECT_GT(allowed, 1);
  EXPECT_NE(context.describe().find("\ntrace " + file + "\n"), std::string::npos) << context.describe();
  context = {};
  EXPECT_EQ(std::remove(file.c_str()), 0);
}

TEST(OutOfMemoryDefault, TheFirstCallMayFailAndTheNextSucceed) {
  expected_bits();
  Problem problem;
  // Once made, the context stays, even if making the plan then fails.
  constexpr bool leaves_nothing = false;
  EXPECT_GT(
      fail_each_request(
          Memory::heap, [&] { return kumiko_attention_forward_default(&problem.args); }, leaves_nothing),
      0);
  EXPECT_EQ(problem.bits(), expected_bits());
}

}  // namespace
