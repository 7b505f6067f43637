// SPDX-License-Identifier: Apache-2.0
// The cost of a trace: the same plan on a context with a trace and on one without, in turns of 15 ms, so that
// both run under the same load of the machine.
#include <benchmark/benchmark.h>
#include <kumiko/attention.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "bench/data_pool.h"
#include "bench/machine_peak.h"
#include "bench/rounds.h"
#include "bench/shapes.h"

namespace kumiko::bench {
namespace {

constexpr double kWindow = 15e-3;
constexpr int kTurns = 40;

void traced(benchmark::State& state, const Case& c, int threads) {
  const auto file =
      std::filesystem::temp_directory_path() / ("kumiko_trace_bench_" + std::to_string(getpid()));
  std::string error;
  std::vector<double> ratios;
  {
    Problem problem(c.shape, c.limit == Limit::either ? bytes_beyond_caches() : 0);
    Context contexts[2];
    Plan plans[2];
    for (int with = 0; with < 2; ++with) {
      ContextOptions options;
      options.num_threads = threads;
      if (with == 1) options.trace = file.string();
      Status s = Context::create(options, &contexts[with]);
      if (s.ok()) s = plan(contexts[with], problem.args(0), &plans[with]);
      if (!s.ok()) return state.SkipWithError(s.message().c_str());
    }
    int set = 0;
    const auto seconds = [&](int with) {
      return seconds_per_call(kWindow, now, [&] {
        set = (set + 1) % problem.sets();
        if (const Status s = plans[with].run(problem.args(set)); !s.ok()) error = s.message();
      });
    };
    seconds(0), seconds(1);
    double before = seconds(0);
    for (auto _ : state) {
      const double on = seconds(1), after = seconds(0);
      ratios.push_back(2 * on / (before + after));
      before = after;
      state.SetIterationTime(on);
    }
    problem.poison();
    seconds(1);
    if (error.empty()) error = problem.check(set);
  }
  std::error_code ignored;
  for (const char* suffix : {"", ".2", ".3", ".4", ".5", ".6", ".7", ".8"})
    std::filesystem::remove(file.string() + suffix, ignored);
  if (!error.empty()) return state.SkipWithError(error.c_str());
  state.counters["ratio"] = median(ratios);
}

void register_all() {
  Context context;
  const Status status = Context::create({}, &context);
  const int most = status.ok() ? context.num_threads() : 1;
  for (const Case& c : cases()) {
    if (c.shape.name != "dense_d128_h8x8_1024" && c.shape.name != "decode_d128_h32x8_4096") continue;
    for (int threads = 1; threads <= std::min(most, 2); ++threads) {
      const std::string name = "trace_" + c.shape.name + "/host/t" + std::to_string(threads);
      benchmark::RegisterBenchmark(name.c_str(), traced, c, threads)
          ->UseManualTime()
          ->Unit(benchmark::kMillisecond)
          ->Iterations(kTurns);
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
  return 0;
}
