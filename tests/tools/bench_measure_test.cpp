// SPDX-License-Identifier: Apache-2.0
// kumiko-bench from inside: a wrong answer is never timed, and what its figures are made of.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include "bench/machine_peak.h"
#include "bench/problem.h"
#include "bench/rounds.h"
#include "tools/bench/bench.h"
#include "tools/bench/measure.h"

namespace kumiko::tools {
namespace {

struct Outcome {
  int status;
  std::string out, err;
};

Outcome run(const Options& options, const Call& call) {
  std::ostringstream out, err;
  const int status = run_bench(options, call, out, err, false);
  return {status, out.str(), err.str()};
}

Status right(const Plan& plan, const AttentionArgs& args) {
  return plan.run(args);
}

// A problem of a few microseconds, on one thread.
Options small() {
  Options options;
  options.context.num_threads = 1;
  options.shape = {.name = "small",
                   .batch = 2,
                   .q_heads = 4,
                   .kv_heads = 2,
                   .q_len = 16,
                   .kv_len = 40,
                   .head_dim = 32,
                   .v_head_dim = 32};
  options.passes = 1;
  options.seconds = 0.001;
  return options;
}

TEST(Answers, RightOnesAreTimed) {
  const Outcome outcome = run(small(), right);
  EXPECT_EQ(outcome.status, kOk) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  EXPECT_NE(outcome.out.find("GFLOP/s"), std::string::npos) << outcome.out;
}

// Each fault is written over the right answer.
struct Fault {
  const char* name;
  void (*spoil)(const AttentionArgs& args);
};
float* row(const AttentionArgs& args, std::int64_t head, std::int64_t query) {
  return static_cast<float*>(args.out.data) + head * args.out.stride[1] + query * args.out.stride[2];
}
const Fault kFaults[] = {
    {"one element", [](const AttentionArgs& args) { row(args, 3, 7)[5] += 0.01f; }},
    {"rows of two heads changed places",
     [](const AttentionArgs& args) { std::swap_ranges(row(args, 0, 3), row(args, 0, 4), row(args, 1, 3)); }},
    {"a row that was not written",
     [](const AttentionArgs& args) { std::memset(row(args, 2, 15), 0xff, 32 * sizeof(float)); }},
    {"a factor",
     [](const AttentionArgs& args) {
       for (float* x = row(args, 0, 0); x != row(args, 4, 0); ++x) *x *= 1.01f;
     }},
};

TEST(Answers, WrongOnesAreRefusedAndNotTimed) {
  Options options = small();
  options.json = testing::TempDir() + "kumiko_bench_wrong.json";
  for (const Fault& fault : kFaults) {
    SCOPED_TRACE(fault.name);
    const Outcome outcome = run(options, [&](const Plan& plan, const AttentionArgs& args) {
      Status status = plan.run(args);
      fault.spoil(args);
      return status;
    });
    EXPECT_EQ(outcome.status, kWrong);
    EXPECT_NE(outcome.err.find("kumiko-bench: online on "), std::string::npos) << outcome.err;
    EXPECT_NE(outcome.err.find("wrong answer: out["), std::string::npos) << outcome.err;
    EXPECT_NE(outcome.err.find("fp64 gives"), std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_FALSE(std::filesystem::exists(options.json));
  }
}

TEST(Answers, OneThatGoesWrongWhileItIsTimedIsRefused) {
  int calls = 0;
  const Outcome outcome = run(small(), [&](const Plan& plan, const AttentionArgs& args) {
    Status status = plan.run(args);
    if (++calls > 1) row(args, 0, 0)[0] += 1;
    return status;
  });
  EXPECT_EQ(outcome.status, kWrong);
  EXPECT_NE(outcome.err.find("wrong answer: out[0, 0, 0, 0]"), std::string::npos) << outcome.err;
  EXPECT_EQ(outcome.out, "");
}

TEST(Answers, OfAnyPipelineThatIsComparedCount) {
  Options options = small();
  options.compares = true;
  options.context.isa = "reference";
  int spoiled = 0;
  const Outcome outcome = run(options, [&](const Plan& plan, const AttentionArgs& args) {
    Status status = plan.run(args);
    if (args.pipeline == Pipeline::three_pass) row(args, 0, 0)[0] += 1, ++spoiled;
    return status;
  });
  EXPECT_GT(spoiled, 0);
  EXPECT_EQ(outcome.status, kWrong);
  EXPECT_NE(outcome.err.find("three_pass on reference: wrong answer"), std::string::npos) << outcome.err;
}

TEST(Answers, ARunThatFailsSaysWhy) {
  const Outcome outcome = run(
      small(), [](const Plan&, const AttentionArgs&) { return Status(Code::out_of_memory, "no memory"); });
  EXPECT_EQ(outcome.status, kWrong);
  EXPECT_NE(outcome.err.find("no memory"), std::string::npos) << outcome.err;
}

TEST(Limit, IsTheLongerOfReadingAndMultiplying) {
  const Ceilings ceilings{.flops = 100, .bytes = 10};
  EXPECT_DOUBLE_EQ(ceilings.limit({.flops = 200, .bytes = 10}), 2);
  EXPECT_FALSE(ceilings.is_memory_bound({.flops = 200, .bytes = 10}));
  EXPECT_DOUBLE_EQ(ceilings.limit({.flops = 200, .bytes = 50}), 5);
  EXPECT_TRUE(ceilings.is_memory_bound({.flops = 200, .bytes = 50}));
}

TEST(Summary, HasMediansOfTheRoundsThatMeasuredTheirCeiling) {
  const Work work{.flops = 100, .bytes = 1};
  const std::vector<double> seconds = {4, 2, 0.9, 8};
  const std::vector<Ceilings> ceilings = {{50, 10}, {100, 20}, {100, 30}, {100, 40}};
  const Result r = summary(work, seconds, ceilings);  // Fractions 0.5, 0.5, 1.11, 0.125.
  EXPECT_EQ(r.rounds, 4);
  EXPECT_EQ(r.left_out, 1);
  EXPECT_DOUBLE_EQ(r.seconds.median, 4);
  EXPECT_DOUBLE_EQ(r.seconds.least, 2);
  EXPECT_DOUBLE_EQ(r.seconds.most, 8);
  EXPECT_DOUBLE_EQ(r.fraction.median, 0.5);
  EXPECT_DOUBLE_EQ(r.fraction.least, 0.125);
  EXPECT_DOUBLE_EQ(r.ceilings.flops, 100);
  EXPECT_DOUBLE_EQ(r.ceilings.bytes, 20);
}

TEST(Summary, HasTimesAndNoFractionWhereNoRoundDid) {
  const std::vector<double> seconds = {0.5, 0.25};
  const std::vector<Ceilings> ceilings = {{100, 10}, {100, 10}};
  const Result r = summary({.flops = 100, .bytes = 1}, seconds, ceilings);
  EXPECT_EQ(r.left_out, 2);
  EXPECT_DOUBLE_EQ(r.seconds.median, 0.375);
  EXPECT_DOUBLE_EQ(r.fraction.median, 0);
}

TEST(Round, IsHeldAgainWhereTheMachineChanged) {
  std::vector<double> ceilings = {2, 2.2, 7};  // After each time; 1 before the first.
  int times = 0, looks = 0;
  const auto round = bench::hold_round(
      1.0, [&] { return ++times; }, [&] { return ceilings[static_cast<std::size_t>(looks++)]; });
  EXPECT_EQ(times, 2);
  EXPECT_EQ(looks, 2);
  EXPECT_DOUBLE_EQ(round.seconds, 2);
  EXPECT_DOUBLE_EQ(round.before, 2);
  EXPECT_DOUBLE_EQ(round.after, 2.2);
  times = 0;
  double ceiling = 1;
  bench::hold_round(
      1.0, [&] { return ++times; }, [&] { return ceiling *= 2; });
  EXPECT_EQ(times, 1 + bench::kHeldAgain);
}

// What causality, windows and lengths leave, counted by the definition.
TEST(Problem, WorkIsWhatQueriesSee) {
  for (const std::int64_t q_len : {1, 5, 12}) {
    for (const std::int64_t window : {-1, 0, 3, 100}) {
      for (const bool is_causal : {false, true}) {
        const bench::Shape shape{.name = "counted",
                                 .batch = 2,
                                 .q_heads = 6,
                                 .kv_heads = 2,
                                 .q_len = q_len,
                                 .kv_len = 10,
                                 .head_dim = 8,
                                 .v_head_dim = 16,
                                 .is_causal = is_causal,
                                 .window_left = window};
        SCOPED_TRACE(std::to_string(q_len) + " queries, window " + std::to_string(window) +
                     (is_causal ? ", causal" : ""));
        double pairs = 0, keys = 0;
        for (std::int64_t key = 0; key < 10; ++key) {
          bool is_seen = false;
          for (std::int64_t query = 0; query < q_len; ++query) {
            const std::int64_t position = query + 10 - q_len;
            const bool sees = (!is_causal || key <= position) && (window < 0 || key >= position - window);
            pairs += sees;
            is_seen = is_seen || sees;
          }
          keys += is_seen;
        }
        const bench::Problem problem(shape);
        EXPECT_DOUBLE_EQ(problem.useful_flops(), 2 * 6 * pairs * 2 * (8 + 16));
        EXPECT_DOUBLE_EQ(problem.kv_bytes(), 2 * 2 * keys * (8 + 16) * 4);
      }
    }
  }
}

TEST(Problem, MemoryIsKnownBeforehand) {
  bench::Shape shape = small().shape;
  shape.kv_len = 1000;
  const std::size_t most = std::size_t{8} << 20;
  const bench::Problem problem(shape, most);
  const double bytes = bench::Problem::memory_bytes(shape, most);
  EXPECT_GE(bytes, static_cast<double>(problem.cache().size()));
  EXPECT_LT(bytes, 1.5 * static_cast<double>(problem.cache().size()));
  // Of a single copy, too, in which nothing is as large as keys and values.
  shape.kv_len = 100'000;
  EXPECT_LT(bench::Problem::memory_bytes(shape, 0),
            1.1 * static_cast<double>(bench::Problem(shape, 0).cache().size()));
  shape.batch = shape.q_heads = shape.kv_heads = shape.q_len = shape.kv_len = std::int64_t{1} << 32;
  EXPECT_GT(bench::Problem::memory_bytes(shape, most), 0x1p96);
  EXPECT_TRUE(std::isfinite(bench::Problem::memory_bytes(shape, most)));
}

// Buffers of caches, on more threads than a buffer has parts: nothing behind it is read.
TEST(ReadCeiling, StaysInsideSmallBuffers) {
  constexpr std::size_t kPage = 4096, kPages = 16;
  void* const memory =
      mmap(nullptr, (kPages + 1) * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  auto* const end = static_cast<std::byte*>(memory) + kPages * kPage;
  ASSERT_EQ(mprotect(end, kPage, PROT_NONE), 0);
  const int core = bench::allowed_cores().front();
  for (const std::size_t pages : {std::size_t{1}, kPages}) {
    for (const std::size_t threads : {1, 5}) {
      SCOPED_TRACE(std::to_string(pages) + " pages, threads: " + std::to_string(threads));
      const std::vector<int> cpus(threads, core);
      bench::ReadCeiling read({end - pages * kPage, pages * kPage}, cpus, bench::Clock::wall);
      EXPECT_GT(read.bytes_per_second(0.001), 0);
    }
  }
  munmap(memory, (kPages + 1) * kPage);
}

}  // namespace
}  // namespace kumiko::tools
