// SPDX-License-Identifier: Apache-2.0
// attention_backward as a user calls it, on every ISA the host runs, with one thread and two. The work is
// that of five products, 2 * (3 head_dim + 2 v_head_dim) flops a visible pair, and the ceiling the peak of
// f32 multiply-adds, whatever the tensors' type.
#include <benchmark/benchmark.h>

#include <memory>
#include <string>
#include <vector>

#include "bench/benchmark_rounds.h"
#include "bench/ceilings.h"
#include "bench/contexts.h"
#include "bench/gradient_problem.h"
#include "bench/machine_peak.h"

namespace kumiko::bench {
namespace {

/// The benchmarks of a shape follow each other.
GradientProblem& problem_of(const GradientShape& shape) {
  static std::unique_ptr<GradientProblem> last;
  if (!last || last->shape().name != shape.name) {
    last.reset();
    last = std::make_unique<GradientProblem>(shape);
  }
  return *last;
}

void backward(benchmark::State& state, const GradientShape& shape, const FmaRow& row, int threads) {
  GradientProblem& problem = problem_of(shape);
  Context context;
  Status status = context_for(row.isa, threads, &context);
  if (status.ok()) status = problem.forward(context);
  if (!status.ok()) return state.SkipWithError(status.message().c_str());
  const std::vector<int> cores = first_cores(threads);
  const ScopedAffinity affinity(cores);
  const auto run = [&] {
    if (const Status s = attention_backward(context, problem.args); !s.ok()) status = s;
  };
  problem.poison();
  run();
  const std::string fault = status.ok() ? problem.check() : status.message();
  if (!fault.empty()) return state.SkipWithError(fault.c_str());
  report_compute(state, measure_rounds(
                            state, problem.flops(),
                            [&] {
                              return seconds_per_call(
                                  kWorkWindow, [threads] { return seconds_on(clock_of(threads)); }, run);
                            },
                            [&] { return fma_flops(row, cores, kFmaWindow, clock_of(threads)); }));
}

void register_all() {
  std::vector<int> counts = {1};
  if (allowed_cores().size() > 1) counts.push_back(2);
  for (const GradientShape& shape : gradient_shapes()) {
    for (const FmaRow& row : fma_rows()) {
      const std::string isa = row.isa;
      if (!row.host_runs() || isa == "reference" || isa == "avx512_bf16") continue;  // avx512's products
      for (const int threads : counts)
        benchmark::RegisterBenchmark(
            (std::string(shape.name) + "/" + isa + "/t" + std::to_string(threads)).c_str(),
            [=, &row](benchmark::State& state) { backward(state, shape, row, threads); })
            ->UseManualTime()
            ->Unit(benchmark::kMillisecond)
            ->Iterations(kCallRounds);
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
