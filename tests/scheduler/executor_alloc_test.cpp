// SPDX-License-Identifier: Apache-2.0
// run() asks for no memory once it is reserved. A program of its own: the counter replaces malloc and mmap
// for all of it.
#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <thread>

#include "scheduler/executor.h"
#include "tests/scheduler/machines.h"
#include "tests/support/alloc_counter.h"

namespace kumiko::scheduler {
namespace {

class NoAllocation : public testing::TestWithParam<std::string> {};

struct Work {
  explicit Work(int tasks) {
    assignment.domain_begin = {0, tasks / 2, tasks};
    assignment.order.resize(static_cast<std::size_t>(tasks));
    std::iota(assignment.order.begin(), assignment.order.end(), 0);
  }
  static void body(void* context, std::int32_t, const Slot& slot) noexcept {
    slot.scratch[0] = std::byte{1};
    ++static_cast<Work*>(context)->ran;
  }
  Job job() { return {&assignment, body, this, 100000}; }

  Assignment assignment;
  std::atomic<int> ran{0};
};

TEST_P(NoAllocation, OnceReserved) {
  std::string error;
  const auto executor =
      find_executor(GetParam())->create({test::machine("numa:2 l3:1 core:4 pu:1"), 4, Bind::close}, error);
  ASSERT_NE(executor, nullptr) << error;
  Work work(40);
  ASSERT_TRUE(executor->reserve(work.job().scratch_bytes));
  std::int64_t calls = -1;
  {
    const test::AllocationCount count;
    for (int i = 0; i < 100; ++i) executor->run(work.job());
    calls = count.calls();
  }
  EXPECT_EQ(calls, 0);
  EXPECT_EQ(work.ran.load(), 4000);
}

TEST_P(NoAllocation, WithManyCallers) {
  std::string error;
  const auto executor =
      find_executor(GetParam())->create({test::machine("numa:2 l3:1 core:4 pu:1"), 2, Bind::close}, error);
  ASSERT_NE(executor, nullptr) << error;
  Work work(40);
  ASSERT_TRUE(executor->reserve(work.job().scratch_bytes));
  std::atomic<int> ready{0};
  std::atomic<int> finished{0};
  std::atomic<bool> go{false};
  std::vector<std::thread> callers;
  for (int c = 0; c < 16; ++c) {
    callers.emplace_back([&] {
      ++ready;
      while (!go) std::this_thread::yield();
      for (int i = 0; i < 20; ++i) executor->run(work.job());
      ++finished;
    });
  }
  while (ready < 16) std::this_thread::yield();
  std::int64_t calls = -1;
  {
    const test::AllocationCount count;
    go = true;
    while (finished < 16) std::this_thread::yield();
    calls = count.calls();
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(calls, 0);
  EXPECT_EQ(work.ran.load(), 16 * 20 * 40);
}

INSTANTIATE_TEST_SUITE_P(Rows, NoAllocation, testing::Values("openmp", "serial"),
                         [](const auto& row) { return row.param; });

}  // namespace
}  // namespace kumiko::scheduler
