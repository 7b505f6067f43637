// SPDX-License-Identifier: Apache-2.0
// What the tests of streams share.
#pragma once

#include <gtest/gtest.h>

#include <latch>
#include <string>

#include "runtime/stream.h"
#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"

namespace kumiko::test {

inline Stream stream_on(const Context& context, std::int64_t capacity = 64) {
  Stream stream;
  const Status status = Stream::create(context, {capacity}, &stream);
  EXPECT_TRUE(status.ok()) << status.message();
  return stream;
}

inline Plan plan_on(const Context& context, const Problem& problem) {
  Plan made;
  const Status status = plan(context, problem.args(), &made);
  EXPECT_TRUE(status.ok()) << status.message();
  return made;
}

/// A decode or a short prompt whose rows are cut into several tasks.
inline Case streamed_case(std::uint64_t seed) {
  Case c;
  c.seed = seed;
  c.q_heads = 4;
  c.kv_heads = 2;
  c.q_len = static_cast<std::int64_t>(1 + seed % 3 * 20);
  c.kv_len = 600;
  c.head_dim = 16;
  c.v_head_dim = 16;
  return c;
}

/// A callback that holds its stream until it is opened, so that later calls wait for certain. The tickets of
/// a test are waited for, or their stream is destroyed, before its Gate is.
class Gate {
 public:
  /// Submits a call with this callback and returns once the stream is in it.
  void hold(const Stream& stream) {
    const Status status = stream.submit(problem_.args(), &ticket, [this](const Status&) {
      entered_.count_down();
      opened_.wait();
    });
    ASSERT_TRUE(status.ok()) << status.message();
    entered_.wait();
  }
  void open() { opened_.count_down(); }

  Ticket ticket;

 private:
  const Problem problem_{Case{}};
  std::latch entered_{1}, opened_{1};
};

inline ::testing::AssertionResult is_error(const Status& status, Code code, const std::string& piece) {
  if (status.code() == code && status.message().find(piece) != std::string::npos)
    return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure()
         << "code " << static_cast<int>(status.code()) << ", \"" << status.message() << "\"";
}

}  // namespace kumiko::test
