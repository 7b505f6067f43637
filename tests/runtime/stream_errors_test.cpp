// SPDX-License-Identifier: Apache-2.0
// What streams and tickets refuse.
#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "tests/runtime/stream_support.h"

namespace kumiko::test {
namespace {

TEST(StreamErrors, EmptyHandles) {
  const Problem problem{Case{}};
  const Context context = own_context("serial", 1);
  const Ticket none;
  EXPECT_TRUE(is_error(none.wait(), Code::invalid_argument, "ticket is empty"));
  EXPECT_FALSE(none || none.done() || none.cancel());
  const Stream empty;
  EXPECT_FALSE(empty);
  EXPECT_TRUE(is_error(empty.submit(problem.args()), Code::invalid_argument, "stream is empty"));
  EXPECT_TRUE(is_error(empty.submit(Plan(), problem.args()), Code::invalid_argument, "stream is empty"));
  EXPECT_TRUE(is_error(empty.submit(KvAppendArgs{}), Code::invalid_argument, "stream is empty"));
  Stream stream;
  EXPECT_TRUE(is_error(Stream::create(Context(), {}, &stream), Code::invalid_argument, "context is empty"));
  EXPECT_TRUE(is_error(Stream::create(context, {}, nullptr), Code::invalid_argument, "stream is null"));
  EXPECT_FALSE(stream);
  stream = stream_on(context);
  EXPECT_TRUE(is_error(stream.submit(Plan(), problem.args()), Code::invalid_argument, "plan is empty"));
}

TEST(StreamErrors, Capacity) {
  const Context context = own_context("serial", 1);
  for (const std::int64_t capacity : {INT64_MIN, std::int64_t{0}, std::int64_t{65537}, INT64_MAX}) {
    Stream stream;
    EXPECT_TRUE(is_error(Stream::create(context, {capacity}, &stream), Code::invalid_argument,
                         "capacity is " + std::to_string(capacity) + "; expected 1..65536"));
    EXPECT_FALSE(stream);
  }
  EXPECT_TRUE(stream_on(context, 65536));
}

TEST(StreamErrors, BadArgumentsAreErrorsOfSubmit) {
  const Problem problem(streamed_case(1));
  const Context context = own_context("serial", 1);
  const Plan planned = plan_on(context, problem), foreign = plan_on(own_context("serial", 1), problem);
  const Stream stream = stream_on(context);
  Ticket ticket;
  int called = 0;
  const auto refused = [&](const Status& status, const std::string& piece) {
    EXPECT_TRUE(is_error(status, Code::invalid_argument, piece));
    EXPECT_FALSE(ticket);
  };
  const auto count = [&called](const Status&) { ++called; };
  AttentionArgs bad = problem.args();
  bad.q.shape[3] = 0;
  refused(stream.submit(bad, &ticket, count), "q.shape[3] (head_dim) is 0");
  refused(stream.submit(planned, bad, &ticket, count), "q.shape[3] (head_dim) is 0");
  bad = problem.args();
  bad.out.data = nullptr;
  refused(stream.submit(bad, &ticket, count), "out.data");
  refused(stream.submit(planned, bad, &ticket, count), "out.data");
  refused(stream.submit(foreign, problem.args(), &ticket, count), "plan is of another context");
  refused(stream.submit(KvAppendArgs{}, &ticket, count), "key");

  const std::int32_t length = 16, page = 99;
  AttentionArgs paged = problem.args();
  paged.k.shape[2] = paged.v.shape[2] = 16;
  paged.seqused_k = &length;
  paged.block_table = &page;
  paged.max_pages = 1;
  refused(stream.submit(paged, &ticket, count), "block_table[0, 0] is 99");
  EXPECT_EQ(called, 0);
}

}  // namespace
}  // namespace kumiko::test
