// SPDX-License-Identifier: Apache-2.0
// attention_forward as a user calls it: plan() once, run() many times, on every ISA the host runs, with one
// thread, two and all.
//
// An iteration is a round: the machine's ceiling for a few milliseconds, the workload for 30 ms, the ceiling
// again (rounds.h).
#include <benchmark/benchmark.h>
#include <kumiko/attention.h>

#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "bench/benchmark_rounds.h"
#include "bench/ceilings.h"
#include "bench/contexts.h"
#include "bench/int8_operands.h"
#include "bench/machine_peak.h"
#include "bench/shapes.h"
#include "bench/speedup.h"
#include "bench/workload.h"

namespace kumiko::bench {
namespace {

// A planned problem on the context of `isa`.
Workload workload_on(Problem& problem, const std::string& isa, int threads) {
  Context context;
  Plan planned;
  Status status = context_for(isa, threads, &context);
  if (status.ok() && context.isa() != isa)
    status = {Code::internal, "context runs " + context.isa() + " and not " + isa};
  if (status.ok()) status = plan(context, problem.args(0), &planned);
  return {problem,
          [status, planned](const AttentionArgs& args) { return status.ok() ? planned.run(args) : status; }};
}

// The problem of `c`, kept until another one is needed: the benchmarks of a shape follow each other. Its
// pages are touched, because the last benchmark may be seconds ago.
Problem& problem_of(const Case& c) {
  static std::unique_ptr<Problem> last;
  if (!last || last->shape().name != c.shape.name) {
    last.reset();
    last = std::make_unique<Problem>(c.shape, c.limit == Limit::either ? bytes_beyond_caches() : 0);
  }
  last->touch();
  return *last;
}

void attention(benchmark::State& state, const Case& c, const FmaRow& row, int threads) {
  Problem& problem = problem_of(c);
  Workload workload = workload_on(problem, row.isa, threads);
  if (!workload.error().empty()) return state.SkipWithError(workload.error().c_str());

  const std::vector<int> cpus = first_cores(threads);
  const ScopedAffinity affinity(cpus);  // The caller works too, on the same cores as the ceiling's threads.
  const auto seconds = [&] { return workload.seconds_per_run(kWorkWindow, clock_of(threads)); };
  if (c.limit == Limit::either) {
    report_limit(state, problem.work(), seconds,
                 [&] { return both_ceilings(row, threads, problem.cache()); });
  } else {
    report_compute(state, measure_rounds(state, problem.work().flops, seconds, [&] {
                     return fma_flops(row, cpus, kFmaWindow, clock_of(threads));
                   }));
  }
  workload.verify();
  if (!workload.error().empty()) state.SkipWithError(workload.error().c_str());
}

// The same call with queries and keys as int8, in turn with products of f32. The rate and the limit are those
// of f32 products on all bytes, so that a row says what int8 gains.
void int8(benchmark::State& state, const Case& c, const FmaRow& row, int threads) {
  Problem& problem = problem_of(c);
  static std::unique_ptr<Int8Operands> operands;
  static const Problem* problem_of_operands = nullptr;
  static std::string name_of_operands;
  if (problem_of_operands != &problem || name_of_operands != problem.shape().name) {
    operands.reset();
    operands = std::make_unique<Int8Operands>(problem);
    problem_of_operands = &problem, name_of_operands = problem.shape().name;
  }
  const auto with = [&](const auto& change) -> Workload {
    Context context;
    Plan planned;
    Status status = context_for(row.isa, threads, &context);
    if (status.ok()) status = plan(context, change(problem.args(0)), &planned);
    return {problem,
            [=](const AttentionArgs& args) { return status.ok() ? planned.run(change(args)) : status; }};
  };
  Workload standard = with([](AttentionArgs args) {
    args.precision = Precision::standard;
    return args;
  });
  Workload own = with([](const AttentionArgs& args) { return operands->args(args); });
  const std::vector<int> cpus = first_cores(threads);
  const ScopedAffinity affinity(cpus);
  std::vector<double> gains;
  const auto seconds = [&] {
    const double others = standard.seconds_per_run(kWorkWindow, clock_of(threads)),
                 owns = own.seconds_per_run(kWorkWindow, clock_of(threads));
    gains.push_back(others / owns);
    return owns;
  };
  report_limit(state, problem.work(), seconds, [&] { return both_ceilings(row, threads, problem.cache()); });
  for (Workload* w : {&standard, &own}) {
    w->verify();
    if (!w->error().empty()) return state.SkipWithError(w->error().c_str());
  }
  state.counters["over_f32"] = median(gains);
}

// How much faster `threads` threads are than one.
void speedup(benchmark::State& state, const Case& c, const FmaRow& row, int threads) {
  Problem& problem = problem_of(c);
  Workload one = workload_on(problem, row.isa, 1), many = workload_on(problem, row.isa, threads);
  for (const Workload* w : {&one, &many}) {
    if (!w->error().empty()) return state.SkipWithError(w->error().c_str());
  }
  measure_speedup(
      state, row, threads, [&] { return one.seconds_per_run(kWorkWindow, Clock::wall); },
      [&] { return many.seconds_per_run(kWorkWindow, Clock::wall); });
  for (Workload* w : {&one, &many}) {
    w->verify();
    if (!w->error().empty()) return state.SkipWithError(w->error().c_str());
  }
}

// A server's mix: a prefill of 512 tokens and a decode step over 2048 keys in turn, by one caller and by
// eight at once on one context. The counter is the eight callers' throughput over the one's, in wall time.
constexpr int kCallers = 8;
class Caller {
 public:
  Caller(const std::string& isa, int threads)
      : prefill_({.name = "prefill",
                  .q_heads = 8,
                  .kv_heads = 8,
                  .q_len = 512,
                  .kv_len = 512,
                  .head_dim = 128,
                  .v_head_dim = 128,
                  .is_causal = true}),
        decode_({.name = "decode",
                 .q_heads = 32,
                 .kv_heads = 8,
                 .q_len = 1,
                 .kv_len = 2048,
                 .head_dim = 128,
                 .v_head_dim = 128,
                 .is_causal = true},
                bytes_beyond_caches() / kCallers),
        work_{workload_on(prefill_, isa, threads), workload_on(decode_, isa, threads)} {}
  Caller(const Caller&) = delete;
  void run(int pairs, int first) {
    for (int i = 0; i < 2 * pairs; ++i) work_[(first + i) % 2].seconds_per_run(0, Clock::wall);
  }
  std::string error() {
    for (Workload& w : work_) {
      w.verify();
      if (!w.error().empty()) return w.error();
    }
    return {};
  }

 private:
  Problem prefill_, decode_;
  Workload work_[2];
};

void callers(benchmark::State& state, const std::string& isa, int threads) {
  constexpr int kPairs = 12;
  std::vector<std::unique_ptr<Caller>> all;
  for (int i = 0; i < kCallers; ++i) all.push_back(std::make_unique<Caller>(isa, threads));
  const ScopedAffinity affinity(first_cores(threads));
  const auto alone = [&] {
    const double begin = now();
    for (int pair = 0; pair < kPairs; ++pair) {  // in turn: the caches are used as with eight callers
      for (const auto& caller : all) caller->run(1, 0);
    }
    return now() - begin;
  };
  const auto together = [&] {
    const double begin = now();
    std::vector<std::thread> started;
    for (int i = 0; i < kCallers; ++i) started.emplace_back([&, i] { all[i]->run(kPairs, i); });
    for (std::thread& thread : started) thread.join();
    return now() - begin;
  };
  std::vector<double> ratios;
  double before = alone();
  for (auto _ : state) {
    const double seconds = together(), after = alone();
    ratios.push_back(0.5 * (before + after) / seconds);
    before = after;
    state.SetIterationTime(seconds);
  }
  for (const auto& caller : all) {
    if (const std::string error = caller->error(); !error.empty()) return state.SkipWithError(error.c_str());
  }
  state.counters["throughput"] = median(ratios);
}

void register_all() {
  const int cores = static_cast<int>(allowed_cores().size());
  Context context;
  const Status status = Context::create({}, &context);
  const int all = status.ok() ? std::min(cores, context.num_threads()) : cores;
  std::vector<int> counts = {1};
  if (all > 1) counts.push_back(2);
  if (all > 2) counts.push_back(all);
  for (const FmaRow& row : fma_rows()) {
    benchmark::AddCustomContext(std::string("host_runs_") + row.isa, row.host_runs() ? "yes" : "no");
    if (!row.host_runs()) continue;
    const bool slow = std::string(row.isa) == "reference";  // Seconds a run: one round.
    if (!slow && std::string(row.isa) != "avx512_bf16") {
      const std::string name =
          std::string("callers8_d128_h8x8_512_and_h32x8_2048/") + row.isa + "/t" + std::to_string(all);
      benchmark::RegisterBenchmark(name.c_str(), callers, std::string(row.isa), all)
          ->UseManualTime()
          ->Unit(benchmark::kMillisecond)
          ->Iterations(kCallRounds);
    }
    const bool bf16_only = std::string(row.isa) == "avx512_bf16";  // its other types run avx512's kernels
    for (const Case& c : int8_cases()) {
      if (slow || bf16_only) continue;
      for (int t : counts)
        benchmark::RegisterBenchmark((c.shape.name + "/" + row.isa + "/t" + std::to_string(t)).c_str(), int8,
                                     c, row, t)
            ->UseManualTime()
            ->Unit(benchmark::kMillisecond)
            ->Iterations(kCallRounds);
    }
    for (const Case& c : cases()) {
      if (bf16_only && c.shape.type != DataType::bf16) continue;
      for (int t : counts) {
        const std::string suffix = std::string("/") + row.isa + "/t" + std::to_string(t);
        benchmark::RegisterBenchmark((c.shape.name + suffix).c_str(), attention, c, row, t)
            ->UseManualTime()
            ->Unit(benchmark::kMillisecond)
            ->Iterations(slow ? 1 : kCallRounds);
        if (t == 1 || slow) continue;
        benchmark::RegisterBenchmark(("speedup_" + c.shape.name + suffix).c_str(), speedup, c, row, t)
            ->UseManualTime()
            ->Unit(benchmark::kMillisecond)
            ->Iterations(kCallRounds);
      }
    }
  }
  benchmark::AddCustomContext("cores", std::to_string(all));
}

}  // namespace
}  // namespace kumiko::bench

int main(int argc, char** argv) {
  kumiko::bench::register_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
