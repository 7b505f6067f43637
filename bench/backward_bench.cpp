// SPDX-License-Identifier: Apache-2.0
// attention_backward as a user calls it, on every ISA the host runs, with one thread and two. The work is
// that of five products, 2 * (3 head_dim + 2 v_head_dim) flops a visible pair, and the ceiling the peak of
// f32 multiply-adds, whatever the tensors' type; for bf16 on avx512_bf16 that of products of pairs.
#include <benchmark/benchmark.h>

#include <memory>
#include <string>
#include <vector>

#include "bench/benchmark_rounds.h"
#include "bench/ceilings.h"
#include "bench/contexts.h"
#include "bench/gradient_problem.h"
#include "bench/machine_peak.h"
#include "bench/speedup.h"

namespace kumiko::bench {
namespace {

constexpr const char* kPairs = "avx512_bf16";  // f32 has avx512's products there

/// The benchmarks of a shape follow each other.
GradientProblem& problem_of(const GradientShape& shape) {
  static std::unique_ptr<GradientProblem> last;
  if (!last || last->shape().name != shape.name) {
    last.reset();
    last = std::make_unique<GradientProblem>(shape);
  }
  return *last;
}

/// A problem and a context to run it on; `error` is "" or what went wrong.
class Call {
 public:
  Call(GradientProblem& problem, const std::string& isa, int threads)
      : problem_(problem), has_pairs_(isa == kPairs) {
    Status status = context_for(isa, threads, &context_);
    if (status.ok()) status = problem.forward(context_);
    if (!status.ok()) error = status.message();
  }
  double seconds_per_run(Clock clock) {
    return seconds_per_call(
        kWorkWindow, [clock] { return seconds_on(clock); }, [this] { run(); });
  }
  void verify() {
    problem_.poison();
    if (error.empty()) run();
    if (error.empty()) error = problem_.check(has_pairs_);
  }
  std::string error;

 private:
  void run() {
    if (const Status s = attention_backward(context_, problem_.args); !s.ok()) error = s.message();
  }
  GradientProblem& problem_;
  const bool has_pairs_;
  Context context_;
};

void backward(benchmark::State& state, const GradientShape& shape, const FmaRow& row, int threads) {
  GradientProblem& problem = problem_of(shape);
  Call call(problem, row.isa, threads);
  const std::vector<int> cores = first_cores(threads);
  const ScopedAffinity affinity(cores);
  if (call.error.empty()) call.verify();
  if (!call.error.empty()) return state.SkipWithError(call.error.c_str());
  report_compute(state, measure_rounds(
                            state, problem.flops(), [&] { return call.seconds_per_run(clock_of(threads)); },
                            [&] { return fma_flops(row, cores, kFmaWindow, clock_of(threads)); }));
  call.verify();
  if (!call.error.empty()) state.SkipWithError(call.error.c_str());
}

void speedup(benchmark::State& state, const GradientShape& shape, const FmaRow& row, int threads) {
  GradientProblem& problem = problem_of(shape);
  Call one(problem, row.isa, 1), many(problem, row.isa, threads);
  for (Call* call : {&one, &many}) {
    if (call->error.empty()) call->verify();
    if (!call->error.empty()) return state.SkipWithError(call->error.c_str());
  }
  measure_speedup(
      state, row, threads, [&] { return one.seconds_per_run(Clock::wall); },
      [&] { return many.seconds_per_run(Clock::wall); });
  for (Call* call : {&one, &many}) {
    call->verify();
    if (!call->error.empty()) return state.SkipWithError(call->error.c_str());
  }
}

void register_all() {
  std::vector<int> counts = {1};
  if (allowed_cores().size() > 1) counts.push_back(2);
  for (const GradientShape& shape : gradient_shapes()) {
    for (const FmaRow& row : fma_rows()) {
      const std::string isa = row.isa;
      if (!row.host_runs() || isa == "reference" || (isa == kPairs && shape.type != DataType::bf16)) continue;
      for (const int threads : counts) {
        const std::string name = std::string(shape.name) + "/" + isa + "/t" + std::to_string(threads);
        const auto add = [&](const std::string& full_name, auto function) {
          benchmark::RegisterBenchmark(
              full_name.c_str(),
              [=, &row, &shape](benchmark::State& state) { function(state, shape, row, threads); })
              ->UseManualTime()
              ->Unit(benchmark::kMillisecond)
              ->Iterations(kCallRounds);
        };
        add(name, backward);
        if (threads > 1) add("speedup_" + name, speedup);
      }
    }
  }
}

}  // namespace
}  // namespace kumiko::bench

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  kumiko::bench::register_all();
  benchmark::RunSpecifiedBenchmarks();
}
