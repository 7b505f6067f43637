// SPDX-License-Identifier: Apache-2.0
// KUMIKO_TRACE: when the file is written, by whom, and what is an error.
#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/runtime/probe.h"
#include "tests/runtime/trace_support.h"

namespace kumiko::test {
namespace {

// Whole tasks, and none that was there before is missing. ThreadSanitizer sees whether a task is written
// before it counts.
TEST(Trace, IsWrittenWhileOthersRun) {
  const Folder folder;
  const std::string file = folder.file("trace.json");
  const Context context = traced(file);
  std::atomic<bool> has_ended{false};
  const std::jthread caller([&] {
    const Problem problem(prefill());
    for (int run = 0; run < 30; ++run) (void)problem.run(context);
    has_ended.store(true, std::memory_order_relaxed);
  });
  std::size_t tasks_before = 0;
  for (bool is_last = false; !is_last;) {
    is_last = has_ended.load(std::memory_order_relaxed);
    ASSERT_TRUE(context.write_trace().ok());
    std::size_t tasks = 0;
    for (const auto& [lane, found] : spans(Json::parse(contents(file)), "task")) tasks += found.size();
    ASSERT_GE(tasks, tasks_before);
    tasks_before = tasks;
  }
  EXPECT_GE(tasks_before, 30u);
}

TEST(Trace, IsWrittenBySeveralThreadsAtOnce) {
  const Folder folder;
  const std::string file = folder.file("trace.json");
  const Context context = traced(file);
  const Problem problem(prefill());
  for (int run = 0; run < 4; ++run) (void)problem.run(context);
  std::atomic<int> failed{0};
  std::vector<std::thread> writers;
  for (int t = 0; t < 4; ++t) {
    writers.emplace_back([&] {
      for (int i = 0; i < 20; ++i) {
        if (!context.write_trace().ok() || !Json::accept(contents(file))) ++failed;
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(failed, 0);
  EXPECT_EQ(folder.names(), std::set<std::string>{"trace.json"});
}

TEST(Trace, NothingIsLeftBesideTheFile) {
  const Folder folder;
  {
    Context first = traced(folder.file("trace.json")), second = traced(folder.file("trace.json"));
    EXPECT_NE(second.describe().find("trace " + folder.file("trace.json.2")), std::string::npos)
        << second.describe();
    EXPECT_TRUE(first.write_trace().ok());
    EXPECT_TRUE(first.write_trace().ok());
  }
  EXPECT_EQ(folder.names(), (std::set<std::string>{"trace.json", "trace.json.2"}));
  EXPECT_TRUE(Json::accept(contents(folder.file("trace.json.2"))));
}

TEST(Trace, AFileThatCannotBeWrittenIsAnErrorAtOnce) {
  ContextOptions options;
  options.trace = "/no/such/folder/trace.json";
  Context context;
  const Status status = Context::create(options, &context);
  EXPECT_EQ(status.code(), Code::invalid_argument);
  for (const char* word : {"trace", "/no/such/folder/trace.json", "expected"})
    EXPECT_NE(status.message().find(word), std::string::npos) << status.message();
  EXPECT_FALSE(context);
}

TEST(Trace, AFolderThatIsGoneIsAnErrorOfWriteTrace) {
  Context context;
  {
    const Folder folder;
    context = traced(folder.file("trace.json"));
  }
  const Status status = context.write_trace();
  EXPECT_EQ(status.code(), Code::unsupported) << status.message();
  EXPECT_NE(status.message().find("trace.json"), std::string::npos) << status.message();
}

TEST(Trace, NobodyWritesWhereNoneWasAskedFor) {
  const Status status = context_of(ContextOptions{}).write_trace();
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_NE(status.message().find("KUMIKO_TRACE"), std::string::npos) << status.message();
  EXPECT_EQ(Context().write_trace().code(), Code::invalid_argument);
}

// A slot keeps 2^16 tasks; later ones are counted, with their phases.
TEST(Trace, AFullTraceCountsWhatItDrops) {
  const Folder folder;
  const std::string file = folder.file("trace.json");
  {
    ContextOptions options;
    options.num_threads = 1;
    options.trace = file;
    Context context;
    ASSERT_TRUE(Context::create(options, &context).ok());
    Case c;
    c.batch = 1024;
    c.q_heads = c.kv_heads = 32;
    const Problem problem(c);
    for (int run = 0; run < 3; ++run) (void)problem.run(context);
  }
  const std::string text = contents(file);
  // A task and its four phases: queries, decode, merge, store.
  EXPECT_EQ(number_after(text, "\"dropped_events\": "), (3 * 1024 * 32 - (1 << 16)) * 5);
}

TEST(TraceProcess, TheContextOfTheProcessIsWrittenWhenItEnds) {
  const Folder folder;
  const std::string file = folder.file("trace.json");
  const ProbeResult result = probe({"KUMIKO_TRACE=" + file}, {"one_shot=1"});
  EXPECT_EQ(result.out.find("code 0\n"), 0u) << result.out;
  EXPECT_EQ(result.err, "");
  EXPECT_FALSE(spans(Json::parse(contents(file)), "task").empty());
  const ProbeResult bad = probe({"KUMIKO_TRACE=/no/such/folder/trace.json"});
  EXPECT_EQ(bad.out.find("code 4\n"), 0u) << bad.out;
  EXPECT_TRUE(bad.says("KUMIKO_TRACE")) << bad.out;
}

}  // namespace
}  // namespace kumiko::test
