// SPDX-License-Identifier: Apache-2.0
// The thread that computes beside MPI: also under ThreadSanitizer, without MPI.
#include "distributed/worker.h"

#include <gtest/gtest.h>

namespace kumiko::distributed {
namespace {

TEST(Worker, DoesEachWorkOnceAndShowsWhatItWrote) {
  Worker worker;
  int done = 0;  // not atomic: the worker's lock orders it
  for (int i = 0; i < 2000; ++i) {
    worker.start([&done] { ++done; });
    if (i % 3 == 0) {
      while (worker.is_busy()) worker.wait(std::chrono::microseconds(20));
    }
    worker.wait();
    ASSERT_EQ(done, i + 1);
  }
}

TEST(Worker, WaitsNoLongerThanAsked) {
  Worker worker;
  std::atomic<bool> goes_on{false};
  worker.start([&] {
    while (!goes_on) std::this_thread::yield();
  });
  worker.wait(std::chrono::microseconds(100));
  EXPECT_TRUE(worker.is_busy());
  goes_on = true;
  worker.wait();
  EXPECT_FALSE(worker.is_busy());
}

TEST(Worker, EndsWhatItHasBegun) {
  bool ended = false;
  {
    Worker worker;
    worker.start([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      ended = true;
    });
  }
  EXPECT_TRUE(ended);
}

}  // namespace
}  // namespace kumiko::distributed
