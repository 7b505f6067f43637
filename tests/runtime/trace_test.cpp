// SPDX-License-Identifier: Apache-2.0
// KUMIKO_TRACE: what the file says after a run. When it is written: trace_file_test.cpp.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "runtime/kv_append.h"
#include "tests/runtime/trace_support.h"

namespace kumiko::test {
namespace {

TEST(Trace, HasEveryTaskOfEveryRunOnceInTheLaneOfACore) {
  const Folder folder;
  const std::string file = folder.file("trace.json");
  for (const char* executor : {"openmp", "tbb", "serial"}) {
    Context context = traced(file + executor, executor);
    std::map<int, std::int64_t> tasks_of_run;
    std::int64_t bytes = 0;
    int runs = 0;
    for (const Case& c : {prefill(), decode(), side_by_side()}) {
      const Problem problem(c);
      Plan prepared;
      ASSERT_TRUE(plan(context, problem.args(), &prepared).ok());
      const std::string facts = prepared.explain();
      for (int repeat = 0; repeat < 2; ++repeat) {
        ASSERT_TRUE(prepared.run(problem.args()).ok());
        tasks_of_run[runs++] = number_after(facts, "tasks: ");
        const std::string memory = facts.substr(facts.find("memory: "));
        bytes += number_after(memory, "reads ") + number_after(memory, "locally, ");
      }
    }
    ASSERT_TRUE(context.write_trace().ok());
    const Json trace = Json::parse(contents(file + executor));
    EXPECT_EQ(trace.at("otherData").at("dropped_events"), 0);
    EXPECT_EQ(trace.at("otherData").at("local_bytes").get<std::int64_t>() +
                  trace.at("otherData").at("remote_bytes").get<std::int64_t>(),
              bytes);

    std::map<int, std::set<std::int64_t>> seen;
    for (const auto& [lane, tasks] : spans(trace, "task")) {
      EXPECT_GE(lane.first, 0);
      EXPECT_LT(lane.first, 2) << "a process for each domain";
      EXPECT_EQ(lane.second / 2, lane.first) << "slots 0 and 1 sit in domain 0";
      for (std::size_t i = 0; i < tasks.size(); ++i) {
        const int run = tasks[i].args.at("run");
        const std::int64_t task = tasks[i].args.at("task");
        EXPECT_TRUE(seen[run].insert(task).second) << "twice";
        EXPECT_EQ(tasks[i].name.ends_with(", KV heads 0 to 1"), run >= 4) << tasks[i].name;
        if (i == 0) continue;
        EXPECT_GE(tasks[i].begin, tasks[i - 1].end - 0.002) << "one task at a time";
      }
    }
    for (const auto& [run, count] : tasks_of_run)
      EXPECT_EQ(static_cast<std::int64_t>(seen[run].size()), count) << executor << " run " << run;
  }
}

TEST(Trace, CountsWhatTheOtherCallsRead) {
  const Folder folder;
  const std::string file = folder.file("trace.json");
  const Context context = traced(file);
  const Problem problem(decode());  // one block of rows a head: every key is read once
  const AttentionArgs& a = problem.args();
  const std::int64_t keys = a.k.shape[0] * a.k.shape[1] * a.k.shape[2];
  const std::vector<float> scores(static_cast<std::size_t>(a.q.shape[0] * a.q.shape[1] * a.k.shape[2]));
  SoftmaxPvArgs softmax;
  softmax.scores = ConstTensor::bhsd(scores.data(), a.q.shape[0], a.q.shape[1], 1, a.k.shape[2]);
  softmax.v = a.v, softmax.out = a.out;
  ASSERT_TRUE(softmax_pv(context, softmax).ok());
  FusedGemmArgs products;
  products.q = a.q, products.k = a.k, products.v = a.v, products.out = a.out;
  ASSERT_TRUE(fused_gemm(context, products).ok());
  ASSERT_TRUE(context.write_trace().ok());
  const Json trace = Json::parse(contents(file));
  EXPECT_EQ(trace.at("otherData").at("local_bytes").get<std::int64_t>() +
                trace.at("otherData").at("remote_bytes").get<std::int64_t>(),
            keys * 4 * (a.v.shape[3] + a.k.shape[3] + a.v.shape[3]));
}

// Small steps are one task, which the caller makes itself; the tasks of others hold every token once.
TEST(Trace, HasTheTokensThatAreAppended) {
  const Folder folder;
  const std::string file = folder.file("trace.json");
  const Context context = traced(file);
  constexpr std::int64_t kHeads = 2, kDim = 128, kTokens = 300, kFew = 3;
  std::vector<float> rows(kTokens * kHeads * kDim), keys(rows.size()), values(rows.size());
  std::vector<std::int64_t> slots;
  for (std::int64_t t = 0; t < kTokens; ++t) slots.push_back(t == 1 ? -1 : t);
  for (const std::int64_t tokens : {kFew, kTokens}) {
    KvAppendArgs args;
    args.key = args.value = ConstTensor::bshd(rows.data(), 1, tokens, kHeads, kDim);
    args.key_cache = Tensor::bshd(keys.data(), 1, kTokens, kHeads, kDim);
    args.value_cache = Tensor::bshd(values.data(), 1, kTokens, kHeads, kDim);
    args.slot_mapping = slots.data();
    ASSERT_TRUE(kv_append(context, args).ok());
  }
  ASSERT_TRUE(context.write_trace().ok());
  const Json trace = Json::parse(contents(file));
  std::map<int, std::vector<std::int64_t>> seen;
  std::map<int, std::int64_t> written, tasks;
  for (const auto& [lane, found] : spans(trace, "task")) {
    for (const Span& span : found) {
      const int run = span.args.at("run");
      ++tasks[run];
      written[run] += span.args.at("written_bytes").get<std::int64_t>();
      const std::int64_t first = number_after(span.name, "tokens "), last = number_after(span.name, " to ");
      for (std::int64_t t = first; t <= last; ++t) seen[run].push_back(t);
    }
  }
  constexpr std::int64_t kTokenBytes = 2 * kHeads * kDim * 4;
  EXPECT_EQ(tasks[0], 1);
  EXPECT_GT(tasks[1], 4);
  for (const auto& [run, tokens] : {std::pair{0, kFew}, {1, kTokens}}) {
    std::sort(seen[run].begin(), seen[run].end());
    ASSERT_EQ(std::ssize(seen[run]), tokens);
    for (std::int64_t t = 0; t < tokens; ++t) ASSERT_EQ(seen[run][static_cast<std::size_t>(t)], t);
    EXPECT_EQ(written[run], (tokens - 1) * kTokenBytes) << "a token without a slot is not stored";
  }
  EXPECT_EQ(trace.at("otherData").at("local_bytes"), 0);
  EXPECT_EQ(trace.at("otherData").at("remote_bytes"), 0);
}

TEST(Trace, PhasesLieInTheirTasksAndIdleTimeBetweenThem) {
  const Folder folder;
  const std::string file = folder.file("trace.json");
  std::set<std::string> phases;
  {
    Context context = traced(file);
    Case whole = prefill();  // keys of one split: each row has one task, which writes it
    whole.kv_len = 200;
    for (const Case& c : {prefill(), whole, decode()}) (void)Problem(c).run(context);
  }  // the last copy: written
  const Json trace = Json::parse(contents(file));
  const auto tasks = spans(trace, "task");
  const auto inside = [](const Span& inner, const Span& outer) {
    return inner.begin >= outer.begin - 0.002 && inner.end <= outer.end + 0.002;
  };
  for (const auto& [lane, found] : spans(trace, "phase")) {
    const std::vector<Span>& list = found;  // Clang 14 captures no structured binding.
    for (std::size_t i = 1; i < list.size(); ++i) {
      const bool together = std::any_of(tasks.at(lane).begin(), tasks.at(lane).end(), [&](const Span& task) {
        return inside(list[i - 1], task) && inside(list[i], task);
      });
      if (together) {
        EXPECT_NEAR(list[i].begin, list[i - 1].end, 0.002) << "a phase ends where the next begins";
      }
    }
    for (const Span& phase : list) {
      phases.insert(phase.name);
      EXPECT_TRUE(std::any_of(tasks.at(lane).begin(), tasks.at(lane).end(), [&](const Span& task) {
        return inside(phase, task);
      })) << phase.name;
    }
  }
  EXPECT_EQ(phases, (std::set<std::string>{"pack queries", "pack", "scores", "softmax", "values", "merge",
                                           "store", "decode"}));
  std::vector<std::pair<double, double>> runs;
  std::map<int, double> begin;
  std::set<std::string> processes, threads;
  for (const Json& event : trace.at("traceEvents")) {
    if (event.at("ph") == "b") begin[event.at("id")] = event.at("ts");
    if (event.at("ph") == "e") runs.emplace_back(begin.at(event.at("id")), event.at("ts"));
    if (event.at("name") == "process_name") processes.insert(event.at("args").at("name"));
    if (event.at("name") == "thread_name") threads.insert(event.at("args").at("name"));
  }
  EXPECT_EQ(runs.size(), 3u);
  EXPECT_EQ(processes, (std::set<std::string>{"calls", "domain 0, NUMA node 0", "domain 1, NUMA node 1"}));
  EXPECT_EQ(threads, (std::set<std::string>{"CPU 0", "CPU 1", "CPU 2", "CPU 3"}));
  for (const auto& [lane, list] : spans(trace, "idle")) {
    for (const Span& idle : list) {
      EXPECT_TRUE(std::any_of(runs.begin(), runs.end(), [&](const auto& run) {
        return idle.begin >= run.first - 0.002 && idle.end <= run.second + 0.002;
      })) << "idle while nobody called";
      if (!tasks.contains(lane)) continue;
      for (const Span& task : tasks.at(lane))
        EXPECT_TRUE(idle.end <= task.begin + 0.002 || idle.begin >= task.end - 0.002) << "idle in a task";
    }
  }
}

// A long call and short ones beside it, with pauses: lanes are idle before their first task, between tasks,
// after the last, and two of the four slots all the time.
TEST(Trace, EveryMomentOfACallIsATaskOrIdle) {
  const Folder folder;
  const std::string file = folder.file("trace.json");
  {
    Context context = traced(file, "serial");
    std::atomic<bool> done{false};
    std::thread other([&] {
      Case large = prefill();
      large.q_len = 600;
      large.kv_len = 3000;
      const Problem problem(large);
      (void)problem.run(context);
      done = true;
    });
    const Problem problem(prefill());
    do {
      (void)problem.run(context);
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    } while (!done);
    other.join();
  }
  const Json trace = Json::parse(contents(file));
  std::map<int, double> begin;
  std::vector<std::pair<double, double>> calls;
  std::set<Lane> lanes;
  for (const Json& event : trace.at("traceEvents")) {
    if (event.at("ph") == "b") begin[event.at("id")] = event.at("ts");
    if (event.at("ph") == "e") calls.emplace_back(begin.at(event.at("id")), event.at("ts"));
    if (event.at("name") == "thread_name") lanes.emplace(event.at("pid"), event.at("tid"));
  }
  ASSERT_GE(calls.size(), 2u);
  ASSERT_EQ(lanes.size(), 4u);
  std::sort(calls.begin(), calls.end());
  double length = 0, until = 0;  // of all calls together
  for (const auto& [from, to] : calls) {
    length += std::max(to - std::max(from, until), 0.0);
    until = std::max(until, to);
  }
  auto tasks = spans(trace, "task"), idle = spans(trace, "idle");
  for (const Lane& lane : lanes) {
    double covered = 0;
    for (const auto* list : {&tasks[lane], &idle[lane]}) {
      for (const Span& span : *list) covered += span.end - span.begin;
    }
    // A gap of less than 1 us between two spans, or at a call's end, does not count as idle.
    const auto gaps = static_cast<double>(tasks[lane].size() + idle[lane].size() + calls.size());
    EXPECT_LE(covered, length + 0.003 * gaps) << "slot " << lane.second;
    EXPECT_GE(covered, length - 1.003 * gaps) << "slot " << lane.second;
    EXPECT_FALSE(lane.second > 1 && idle[lane].empty()) << "slot " << lane.second;
  }
}

// Bytes that a worker reads of a head at home in the other domain are remote, whatever the plan assigned.
TEST(Trace, BytesOfHeadsAtHomeElsewhereAreRemote) {
  const Folder folder;
  const Problem problem(prefill());
  AttentionArgs args = problem.args();
  const auto bytes = [&](const std::vector<std::int32_t>& homes) {
    const std::string file = folder.file("trace" + std::to_string(homes[0]) + std::to_string(homes[1]));
    {
      Context context = traced(file, "serial");  // One caller, in the first slot, of domain 0.
      args.kv_domains = homes.data();
      EXPECT_TRUE(attention_forward(context, args).ok());
    }
    const Json data = Json::parse(contents(file)).at("otherData");
    return std::pair<std::int64_t, std::int64_t>(data.at("local_bytes"), data.at("remote_bytes"));
  };
  const auto [all, none] = bytes({0, 0, 0, 0});
  EXPECT_GT(all, 0);
  EXPECT_EQ(none, 0);
  EXPECT_EQ(bytes({1, 1, 1, 1}), std::pair(std::int64_t{0}, all));
  const auto [here, there] = bytes({0, 1, 1, 1});  // Heads of equal lengths.
  EXPECT_EQ(here, all / 4);
  EXPECT_EQ(there, all - all / 4);
}

TEST(Trace, ChangesNoBit) {
  const Folder folder;
  Context context = traced(folder.file("trace.json"));
  ContextOptions plain;
  plain.topology = "numa:2 l3:1 core:2 pu:1";
  for (const Case& c : {prefill(), decode()}) {
    const Problem problem(c);
    EXPECT_TRUE(same_bits(problem.run(context), problem.run(context_of(plain))));
  }
}

}  // namespace
}  // namespace kumiko::test
