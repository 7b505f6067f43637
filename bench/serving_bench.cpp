// SPDX-License-Identifier: Apache-2.0
// A server's steps. Keys and values in pages against the same ones in dense tensors, a step of prompt and
// decodes in one call against its parts, in turn within a round, and new tokens written into pages against a
// copy of the same bytes.
#include <benchmark/benchmark.h>
#include <kumiko/attention.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bench/append_step.h"
#include "bench/benchmark_rounds.h"
#include "bench/ceilings.h"
#include "bench/contexts.h"
#include "bench/mixed_step.h"
#include "bench/shapes.h"
#include "bench/workload.h"

namespace kumiko::bench {
namespace {

// The memory of the last case: the benchmarks of a case follow each other.
Problem& problem_of(const Shape& paged, const std::string& name) {
  static std::unique_ptr<Problem> last;
  static std::string last_name;
  if (!last || last_name != name) {
    last.reset();
    last = std::make_unique<Problem>(paged, bytes_beyond_caches());
    last_name = name;
  }
  last->touch();
  return *last;
}

/// Runs a plan of `planned` on the memory of any call over the same problem.
Workload workload_on(Problem& problem, const AttentionArgs& planned, const std::string& isa, int threads) {
  Context context;
  Plan made;
  Status status = context_for(isa, threads, &context);
  if (status.ok()) status = plan(context, planned, &made);
  return {problem, [=](const AttentionArgs& memory) {
            if (!status.ok()) return status;
            AttentionArgs args = planned;
            args.q.data = memory.q.data, args.k.data = memory.k.data, args.v.data = memory.v.data;
            args.out.data = memory.out.data;
            return made.run(args);
          }};
}

void decode_in_pages(benchmark::State& state, const Case& c, std::int64_t page_keys, const FmaRow& row,
                     int threads) {
  const Shape paged = in_pages(c.shape, page_keys);
  Problem& problem = problem_of(paged, c.shape.name + std::to_string(page_keys));
  Workload dense_work = workload_on(problem, arguments(c.shape), row.isa, threads),
           paged_work = workload_on(problem, arguments(problem.shape()), row.isa, threads);
  const ScopedAffinity affinity(first_cores(threads));
  std::vector<double> over_dense, dense_fractions;
  double dense_seconds = 0;
  const auto seconds = [&] {
    dense_seconds = dense_work.seconds_per_run(kWorkWindow, clock_of(threads));
    const double paged_seconds = paged_work.seconds_per_run(kWorkWindow, clock_of(threads));
    over_dense.push_back(dense_seconds / paged_seconds);
    return paged_seconds;
  };
  report_limit(state, problem.work(), seconds, [&] { return both_ceilings(row, threads, problem.cache()); });
  for (Workload* work : {&dense_work, &paged_work}) {
    work->verify();
    if (!work->error().empty()) return state.SkipWithError(work->error().c_str());
  }
  state.counters["over_dense"] = median(over_dense);
}

void mixed(benchmark::State& state, DataType type, const std::string& isa, int threads) {
  Problem problem(mixed_step(type));
  problem.touch();
  Context context;
  if (const Status s = context_for(isa, threads, &context); !s.ok())
    return state.SkipWithError(s.message().c_str());
  const ScopedAffinity affinity(first_cores(threads));
  std::string error;
  const auto planned = [&](const AttentionArgs& args) {
    Plan made;
    if (const Status s = plan(context, args, &made); !s.ok()) error = s.message();
    return [made, args, &error] {
      if (const Status s = made.run(args); !s.ok()) error = s.message();
    };
  };
  const AttentionArgs step = problem.args(0);
  const PartOfStep first(step, 0, 1), others(step, 1, step.num_sequences);
  const auto whole = planned(step), chunk = planned(first.args()), decodes = planned(others.args());
  const auto seconds_of = [threads](auto run) {
    return seconds_per_call(
        kWorkWindow, [threads] { return seconds_on(clock_of(threads)); }, run);
  };
  const auto verify = [&](const std::string& what) {
    if (const std::string wrong = problem.check(0); error.empty() && !wrong.empty())
      error = what + ": " + wrong;
    problem.poison();
  };
  problem.poison();
  chunk();
  decodes();
  verify("the step's parts");
  std::vector<double> over_parts;
  for (auto _ : state) {
    const double parts = seconds_of(chunk) + seconds_of(decodes), all = seconds_of(whole);
    over_parts.push_back(parts / all);
    state.SetIterationTime(all);
  }
  problem.poison();
  whole();
  verify("the step");
  if (!error.empty()) return state.SkipWithError(error.c_str());
  state.counters["over_parts"] = median(over_parts);
}

void shared_prefixes(benchmark::State& state, DataType type, std::int64_t page_keys, const std::string& isa,
                     int threads) {
  Problem shared(shared_prefix(type, page_keys, true), bytes_beyond_caches()),
      apart(shared_prefix(type, page_keys, false), bytes_beyond_caches());
  shared.touch();
  apart.touch();
  Workload shared_work = workload_on(shared, shared.args(0), isa, threads),
           apart_work = workload_on(apart, apart.args(0), isa, threads);
  const ScopedAffinity affinity(first_cores(threads));
  std::vector<double> over_apart;
  for (auto _ : state) {
    const double apart_seconds = apart_work.seconds_per_run(kWorkWindow, clock_of(threads)),
                 seconds = shared_work.seconds_per_run(kWorkWindow, clock_of(threads));
    over_apart.push_back(apart_seconds / seconds);
    state.SetIterationTime(seconds);
  }
  for (Workload* work : {&shared_work, &apart_work}) {
    work->verify();
    if (!work->error().empty()) return state.SkipWithError(work->error().c_str());
  }
  state.counters["over_apart"] = median(over_apart);
  state.counters["bytes_over_apart"] = shared.kv_bytes() / apart.kv_bytes();
}

/// A call with lists of keys beside one without. per_element: its speed for each visible pair of query and
/// key over the other's. over_other: its time over the other's.
void key_lists(benchmark::State& state, const Shape& shape, const Shape& other, const FmaRow& row,
               int threads) {
  Problem problem(shape, bytes_beyond_caches()), other_problem(other, bytes_beyond_caches());
  problem.touch();
  other_problem.touch();
  Workload work = workload_on(problem, problem.args(0), row.isa, threads),
           other_work = workload_on(other_problem, other_problem.args(0), row.isa, threads);
  const ScopedAffinity affinity(first_cores(threads));
  std::vector<double> over_other;
  const auto seconds = [&] {
    const double others = other_work.seconds_per_run(kWorkWindow, clock_of(threads)),
                 own = work.seconds_per_run(kWorkWindow, clock_of(threads));
    over_other.push_back(own / others);
    return own;
  };
  report_limit(state, problem.work(), seconds, [&] { return both_ceilings(row, threads, problem.cache()); });
  for (Workload* each : {&work, &other_work}) {
    each->verify();
    if (!each->error().empty()) return state.SkipWithError(each->error().c_str());
  }
  state.counters["over_other"] = median(over_other);
  state.counters["per_element"] = problem.work().flops / other_problem.work().flops / median(over_other);
}

// The memory of the last case: the benchmarks of a case follow each other.
AppendStep& append_step_of(DataType type, std::int64_t tokens) {
  static std::unique_ptr<AppendStep> last;
  static std::pair<DataType, std::int64_t> last_case;
  if (!last || last_case != std::pair(type, tokens)) {
    last.reset();
    last = std::make_unique<AppendStep>(type, tokens);
    last_case = {type, tokens};
  }
  return *last;
}

void append(benchmark::State& state, DataType type, std::int64_t tokens, const std::string& isa,
            int threads) {
  AppendStep& step = append_step_of(type, tokens);
  Context context;
  if (const Status s = context_for(isa, threads, &context); !s.ok())
    return state.SkipWithError(s.message().c_str());
  const std::vector<int> cores = first_cores(threads);
  const ScopedAffinity affinity(cores);
  std::string error;
  const auto run = [&] {
    if (const Status s = kv_append(context, step.next()); !s.ok()) error = s.message();
  };
  step.poison();
  for (std::int64_t i = 0; i < step.steps(); ++i) run();
  if (error.empty()) error = step.check();
  if (!error.empty()) return state.SkipWithError(error.c_str());
  const Rounds rounds = measure_rounds(
      state, step.bytes(),
      [&] {
        return seconds_per_call(
            kWorkWindow, [threads] { return seconds_on(clock_of(threads)); }, run);
      },
      [&] { return step.copy_ceiling(cores, clock_of(threads)); });
  state.counters["gbps"] = rounds.rate * 1e-9;
  state.counters["copy_gbps"] = rounds.ceiling * 1e-9;
  state.counters["copy_fraction"] = rounds.fraction;
}

void add(const std::string& name, auto run) {
  benchmark::RegisterBenchmark(name.c_str(), run)
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond)
      ->Iterations(kRounds);
}

void register_all() {
  std::vector<int> counts = {1};
  if (allowed_cores().size() > 1) counts.push_back(2);
  for (const FmaRow& row : fma_rows()) {
    benchmark::AddCustomContext(std::string("host_runs_") + row.isa, row.host_runs() ? "yes" : "no");
    const std::string isa = row.isa;
    if (!row.host_runs() || isa == "reference") continue;
    for (const int threads : counts) {
      for (const DataType type : {DataType::f32, DataType::bf16}) {
        if (isa == "avx512_bf16" && type != DataType::bf16)
          continue;  // Its other types run avx512's kernels.
        add(std::string("mixed_step_") + (type == DataType::f32 ? "f32/" : "bf16/") + isa + "/t" +
                std::to_string(threads),
            [=](benchmark::State& state) { mixed(state, type, isa, threads); });
        const std::string of =
            (type == DataType::f32 ? "_f32/" : "_bf16/") + isa + "/t" + std::to_string(threads);
        add("block_sparse" + of, [=, &row](benchmark::State& state) {
          key_lists(state, block_sparse(type, false), block_sparse(type, true), row, threads);
        });
        add("token_tree" + of, [=, &row](benchmark::State& state) {
          key_lists(state, token_tree(type, false), token_tree(type, true), row, threads);
        });
        for (const std::int64_t page_keys : {16, 128})
          add(std::string("shared_prefix_pages") + std::to_string(page_keys) +
                  (type == DataType::f32 ? "_f32/" : "_bf16/") + isa + "/t" + std::to_string(threads),
              [=](benchmark::State& state) { shared_prefixes(state, type, page_keys, isa, threads); });
      }
    }
  }
  for (const DataType type : {DataType::f32, DataType::bf16}) {
    for (const std::int64_t tokens : {64, 512}) {
      for (const FmaRow& row : fma_rows()) {
        const std::string isa = row.isa;
        if (!row.host_runs() || isa == "reference" || isa == "avx512_bf16") continue;  // avx512's kernels
        for (const int threads : counts)
          add("append_" + std::to_string(tokens) + (type == DataType::f32 ? "_f32/" : "_bf16/") + isa + "/t" +
                  std::to_string(threads),
              [=](benchmark::State& state) { append(state, type, tokens, isa, threads); });
      }
    }
  }
  for (const Case& c : server_cases()) {
    for (const std::int64_t page_keys : {16, 128}) {
      for (const FmaRow& row : fma_rows()) {
        const std::string isa = row.isa;
        if (!row.host_runs() || isa == "reference") continue;
        if (isa == "avx512_bf16" && c.shape.type != DataType::bf16) continue;
        for (const int threads : counts)
          add(c.shape.name + "_pages" + std::to_string(page_keys) + "/" + isa + "/t" +
                  std::to_string(threads),
              [=, &c, &row](benchmark::State& state) { decode_in_pages(state, c, page_keys, row, threads); });
      }
    }
  }
}

}  // namespace
}  // namespace kumiko::bench

int main(int argc, char** argv) {
  kumiko::bench::register_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
