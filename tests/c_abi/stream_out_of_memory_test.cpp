// SPDX-License-Identifier: Apache-2.0
// Every allocation of a stream's creation and of a submission is made to fail in turn: out_of_memory, no
// handle, no call made, no place in the queue lost.
#include <gtest/gtest.h>
#include <kumiko/stream_c.h>

#include <latch>
#include <vector>

#include "tests/c_abi/failing_memory.h"

namespace {

using namespace kumiko::test;

// Calls `attempt` with 0, 1, 2, ... requests allowed until it succeeds; returns how many it needed.
template <class Attempt>
long refuse_each_request(Attempt attempt) {
  for (long allowed = 0; allowed < 1000; ++allowed) {
    const Footprint before = footprint();
    kumiko_status status = KUMIKO_OK;
    {
      const FailingHeap heap(allowed);
      status = attempt();
    }
    if (status == KUMIKO_OK) return allowed;
    EXPECT_EQ(status, KUMIKO_OUT_OF_MEMORY) << kumiko_last_error();
    EXPECT_EQ(footprint(), before) << "with " << allowed << " requests";
  }
  ADD_FAILURE() << "never succeeded";
  return -1;
}

struct Door {
  std::latch entered{1}, opened{1};
  static void hold(void* door, kumiko_status) {
    static_cast<Door*>(door)->entered.count_down();
    static_cast<Door*>(door)->opened.wait();
  }
};

void count(void* calls, kumiko_status status) {
  *static_cast<int*>(calls) += status == KUMIKO_OK ? 1 : 1000;
}

TEST(StreamOutOfMemory, NothingIsHalfDone) {
  kumiko_context_options serial = KUMIKO_CONTEXT_OPTIONS_INIT;
  serial.executor = "serial";
  serial.num_threads = 1;
  kumiko_context* context = nullptr;
  ASSERT_EQ(kumiko_context_create(&serial, &context), KUMIKO_OK) << kumiko_last_error();
  std::vector<float> x(8, 1.0f), out(8);
  kumiko_attention_args args = KUMIKO_ATTENTION_ARGS_INIT;
  args.q = args.k = args.v = kumiko_const_tensor_bhsd(x.data(), 1, 1, 1, 8);
  args.out = kumiko_tensor_bhsd(out.data(), 1, 1, 1, 8);
  kumiko_plan* plan = nullptr;
  ASSERT_EQ(kumiko_plan_create(context, &args, &plan), KUMIKO_OK) << kumiko_last_error();

  kumiko_stream_options options = KUMIKO_STREAM_OPTIONS_INIT;
  options.capacity = 4;
  kumiko_stream* stream = nullptr;
  EXPECT_GT(refuse_each_request([&] {
              const kumiko_status status = kumiko_stream_create(context, &options, &stream);
              EXPECT_EQ(stream != nullptr, status == KUMIKO_OK);
              return status;
            }),
            4);
  Door door;
  EXPECT_EQ(kumiko_stream_attention_forward(stream, &args, Door::hold, &door, nullptr), KUMIKO_OK);
  door.entered.wait();
  int calls = 0;
  std::vector<kumiko_ticket*> tickets(4);
  for (kumiko_ticket*& ticket : tickets) {
    EXPECT_GT(refuse_each_request([&] {
                const kumiko_status status =
                    kumiko_stream_plan_run(stream, plan, &args, count, &calls, &ticket);
                EXPECT_EQ(ticket != nullptr, status == KUMIKO_OK);
                return status;
              }),
              1);
  }
  EXPECT_EQ(kumiko_stream_plan_run(stream, plan, &args, count, &calls, nullptr), KUMIKO_QUEUE_FULL);
  door.opened.count_down();
  for (kumiko_ticket* ticket : tickets) {
    EXPECT_EQ(kumiko_ticket_wait(ticket), KUMIKO_OK) << kumiko_last_error();
    kumiko_ticket_destroy(ticket);
  }
  EXPECT_EQ(calls, 4);
  kumiko_stream_destroy(stream);
  kumiko_plan_destroy(plan);
  kumiko_context_destroy(context);
}

}  // namespace
