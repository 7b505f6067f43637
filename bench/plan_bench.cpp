// SPDX-License-Identifier: Apache-2.0
// plan() and Plan::update() through the public API, as a server calls them before each step of its batch: one
// thread plans for machines of several sizes. Nothing is run, and the planned machine need not be this one.
#include <benchmark/benchmark.h>
#include <kumiko/attention.h>

#include <cstdint>
#include <string>
#include <vector>

#include "bench/machine_peak.h"
#include "bench/rounds.h"

namespace kumiko::bench {
namespace {

struct Machine {
  const char* name;
  const char* topology;
};
constexpr Machine kMachines[] = {
    {"1x1", "numa:1 l3:1 core:1 pu:1"},
    {"1x2", "numa:1 l3:1 core:2 pu:1"},
    {"4x12", "numa:4 l2:1(size=8388608) core:12 pu:1"},
    {"2x64", "numa:2 l3:1(size=268435456) core:64 pu:1"},
};

constexpr int kBatch = 64;

// 64 requests with 200 to 4000 keys, 32 query and 8 KV heads of 128: 512 heads to deal.
AttentionArgs decode_batch(const std::vector<std::int32_t>& lengths) {
  AttentionArgs args;
  args.q = ConstTensor::bhsd(nullptr, kBatch, 32, 1, 128);
  args.k = args.v = ConstTensor::bhsd(nullptr, kBatch, 8, 4096, 128);
  args.out = Tensor::bhsd(nullptr, kBatch, 32, 1, 128);
  args.is_causal = true;
  args.seqused_k = lengths.data();
  return args;
}

Status context_for(const Machine& machine, Context* context) {
  ContextOptions options;
  options.topology = machine.topology;
  options.executor = "serial";
  return Context::create(options, context);
}

void plan_decode(benchmark::State& state, const Machine& machine) {
  Context context;
  if (const Status s = context_for(machine, &context); !s.ok())
    return state.SkipWithError(s.message().c_str());
  std::vector<std::int32_t> lengths;
  for (int request = 0; request < kBatch; ++request) lengths.push_back(200 + request * 2339 % 3801);
  const AttentionArgs args = decode_batch(lengths);
  std::string error;
  std::vector<double> seconds;
  for (auto _ : state) {
    const double each = seconds_per_call(5e-3, thread_seconds, [&] {
      Plan fresh;
      if (const Status s = plan(context, args, &fresh); !s.ok()) error = s.message();
    });
    seconds.push_back(each);
    state.SetIterationTime(each);
  }
  if (!error.empty()) return state.SkipWithError(error.c_str());
  state.counters["microseconds"] = 1e6 * median(seconds);
}

/// One decode step's update: of all lengths by `step` keys, there and back.
void update_decode(benchmark::State& state, const Machine& machine, std::int32_t step) {
  Context context;
  if (const Status s = context_for(machine, &context); !s.ok())
    return state.SkipWithError(s.message().c_str());
  std::vector<std::int32_t> lengths[2];
  for (int request = 0; request < kBatch; ++request) {
    lengths[0].push_back(200 + request * 2339 % 3301);
    lengths[0].back() -= lengths[0].back() % 512 == 0;  // Not the last key of a split.
    lengths[1].push_back(lengths[0].back() + step);
  }
  Plan prepared;
  std::string error;
  if (const Status s = plan(context, decode_batch(lengths[0]), &prepared); !s.ok()) error = s.message();
  std::vector<double> seconds;
  for (auto _ : state) {
    int turn = 0;
    const double each = seconds_per_call(5e-3, thread_seconds, [&] {
      if (const Status s = prepared.update(lengths[turn ^= 1]); !s.ok()) error = s.message();
    });
    seconds.push_back(each);
    state.SetIterationTime(each);
  }
  // The answer: after a step of whole splits, every row block was cut anew as in a new plan.
  Plan fresh;
  if (const Status s = prepared.update(lengths[1]); !s.ok()) error = s.message();
  if (const Status s = plan(context, decode_batch(lengths[1]), &fresh); !s.ok()) error = s.message();
  if (error.empty() && step % 512 == 0 && prepared.explain() != fresh.explain())
    error = "an updated plan is not the one made anew";
  if (!error.empty()) return state.SkipWithError(error.c_str());
  state.counters["microseconds"] = 1e6 * median(seconds);
}

void register_update(const Machine& machine, const char* name, std::int32_t step) {
  benchmark::RegisterBenchmark((name + ("_b64_" + std::string(machine.name)) + "/host/t1").c_str(),
                               update_decode, machine, step)
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond)
      ->Iterations(21);
}

void register_all() {
  for (const Machine& machine : kMachines) {
    register_update(machine, "update_within_splits", 1);
    register_update(machine, "update_every_split", 512);
    benchmark::RegisterBenchmark(("plan_decode_b64_" + std::string(machine.name) + "/host/t1").c_str(),
                                 plan_decode, machine)
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond)
        ->Iterations(21);
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
