// SPDX-License-Identifier: Apache-2.0
// What a call costs beside its arithmetic: decode of one head over one key, by each way to make the call.
#include <benchmark/benchmark.h>
#include <kumiko/attention.h>
#include <kumiko/stream.h>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <string>
#include <vector>

#include "bench/machine_peak.h"
#include "bench/rounds.h"

namespace kumiko::bench {
namespace {

constexpr int kDim = 64;
constexpr int kInARow = 1000;
constexpr double kWindow = 5e-3;

/// One row, which sees one key: its output is the key's value, to the bit.
struct OneKey {
  std::vector<float> q = std::vector<float>(kDim, 0.5f), k = q, v, out = std::vector<float>(kDim);
  AttentionArgs args;
  Context context;
  Plan plan;
  Stream stream;
  std::string error;

  OneKey() {
    for (int d = 0; d < kDim; ++d) v.push_back(static_cast<float>(d) - 31.5f);
    args.q = ConstTensor::bhsd(q.data(), 1, 1, 1, kDim);
    args.k = ConstTensor::bhsd(k.data(), 1, 1, 1, kDim);
    args.v = ConstTensor::bhsd(v.data(), 1, 1, 1, kDim);
    args.out = Tensor::bhsd(out.data(), 1, 1, 1, kDim);
    ContextOptions options;
    options.num_threads = 1;
    note(Context::create(options, &context));
    if (error.empty()) note(kumiko::plan(context, args, &plan));
    if (error.empty()) note(Stream::create(context, {.capacity = kInARow}, &stream));
  }
  void note(const Status& status) {
    if (!status.ok()) error = status.message();
  }
  void poison() { std::fill(out.begin(), out.end(), std::numeric_limits<float>::quiet_NaN()); }
  void check() {
    if (error.empty() && out != v) error = "the output is not the key's value";
  }
};

void submit_and_wait(OneKey& one) {
  Ticket ticket;
  one.note(one.stream.submit(one.plan, one.args, &ticket));
  if (one.error.empty()) one.note(ticket.wait());
}

// Each gives the seconds of a call.
double run(OneKey& one) {
  return seconds_per_call(kWindow, thread_seconds, [&] { one.note(one.plan.run(one.args)); });
}
double forward(OneKey& one) {
  return seconds_per_call(kWindow, thread_seconds,
                          [&] { one.note(attention_forward(one.context, one.args)); });
}
double wait(OneKey& one) {
  return seconds_per_call(kWindow, now, [&] { submit_and_wait(one); });
}
/// The caller's time for the submissions, not for the calls.
double submit(OneKey& one) {
  Ticket ticket;
  const double begin = now();
  for (int i = 0; i < kInARow && one.error.empty(); ++i)
    one.note(one.stream.submit(one.plan, one.args, &ticket));
  const double end = now();
  if (one.error.empty()) one.note(ticket.wait());
  return (end - begin) / kInARow;
}

void call(benchmark::State& state, double (*seconds_of)(OneKey&)) {
  OneKey one;
  std::vector<double> seconds;
  if (one.error.empty()) seconds_of(one);  // The first calls find cold caches and a stream that sleeps.
  for (auto _ : state) {
    if (!one.error.empty()) break;
    one.poison();
    seconds.push_back(seconds_of(one));
    one.check();
    state.SetIterationTime(seconds.back());
  }
  if (!one.error.empty()) return state.SkipWithError(one.error.c_str());
  state.counters["microseconds"] = 1e6 * median(seconds);
}

void register_all() {
  const auto add = [](const char* name, double (*seconds_of)(OneKey&)) {
    benchmark::RegisterBenchmark(name, call, seconds_of)
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond)
        ->Iterations(51);
  };
  add("call_run/host/t1", run);
  add("call_forward/host/t1", forward);
  add("call_submit/host/t1", submit);
  add("call_submit_wait/host/t1", wait);
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
