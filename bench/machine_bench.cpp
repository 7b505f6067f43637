// SPDX-License-Identifier: Apache-2.0
// The ceilings alone: FMA peak of every ISA and read bandwidth, on one core and on all.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <string>
#include <vector>

#include "bench/data_pool.h"
#include "bench/machine_peak.h"

namespace kumiko::bench {
namespace {

constexpr double kWindow = 20e-3;

std::vector<int> first_cores(int n) {
  std::vector<int> cores = allowed_cores();
  cores.resize(static_cast<std::size_t>(n));
  return cores;
}

void run_fma(benchmark::State& state, const FmaRow& row, int threads) {
  std::vector<double> rates;
  for (auto _ : state) {
    rates.push_back(fma_flops(row, first_cores(threads), kWindow, clock_of(threads)));
    state.SetIterationTime(kWindow);
  }
  std::sort(rates.begin(), rates.end());
  state.counters["peak_gflops"] = rates[rates.size() / 2] * 1e-9;
}

void run_read(benchmark::State& state, int threads) {
  ReadCeiling ceiling(std::as_bytes(data_pool()), first_cores(threads), clock_of(threads));
  std::vector<double> rates;
  for (auto _ : state) {
    rates.push_back(ceiling.bytes_per_second(kWindow));
    state.SetIterationTime(kWindow);
  }
  std::sort(rates.begin(), rates.end());
  state.counters["read_gbps"] = rates[rates.size() / 2] * 1e-9;
  state.SetLabel(ceiling.variant());
}

}  // namespace
}  // namespace kumiko::bench

int main(int argc, char** argv) {
  using namespace kumiko::bench;
  const int cores = static_cast<int>(allowed_cores().size());
  std::vector<int> counts = {1};
  if (cores > 1) counts.push_back(2);
  if (cores > 2) counts.push_back(cores);
  for (const FmaRow& row : fma_rows()) {
    if (!row.host_runs()) continue;
    for (int t : counts) {
      const std::string name = std::string("fma/") + row.isa + "/t" + std::to_string(t);
      benchmark::RegisterBenchmark(name.c_str(), run_fma, row, t)->UseManualTime()->Iterations(5);
    }
  }
  for (int t : counts) {
    const std::string name = "read/host/t" + std::to_string(t);
    benchmark::RegisterBenchmark(name.c_str(), run_read, t)->UseManualTime()->Iterations(5);
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
