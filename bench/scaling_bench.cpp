// SPDX-License-Identifier: Apache-2.0
// Scaling on a machine that is not available, by the plan's cost model: an A64FX of 4 x 12 cores.
// docs/scaling.md gives the rates.
#include <benchmark/benchmark.h>
#include <kumiko/attention.h>

#include <string>
#include <vector>

namespace kumiko::bench {
namespace {

constexpr const char* kA64fx = "numa:4 core:12 pu:1";
constexpr MachineRates kRates{109e9, 36e9, 225e9, 5e-6};

AttentionArgs shape(std::int64_t batch, std::int64_t q_len, std::int64_t kv_len) {
  constexpr std::int64_t kQueryHeads = 32, kKvHeads = 8, kDim = 128;
  AttentionArgs args;
  args.q = ConstTensor::bhsd(nullptr, batch, kQueryHeads, q_len, kDim);
  args.k = args.v = ConstTensor::bhsd(nullptr, batch, kKvHeads, kv_len, kDim);
  args.out = Tensor::bhsd(nullptr, batch, kQueryHeads, q_len, kDim);
  args.is_causal = true;
  return args;
}

/// The calls of a step on `threads` threads, one after the other.
Prediction predict(const std::vector<AttentionArgs>& calls, int threads, benchmark::State& state) {
  ContextOptions options;
  options.topology = kA64fx;
  options.num_threads = threads;
  Context context;
  Prediction sum;
  Status status = Context::create(options, &context);
  for (const AttentionArgs& args : calls) {
    Plan made;
    if (status.ok()) status = plan(context, args, &made);
    const Prediction one = made.predict(kRates);
    sum.seconds += one.seconds;
    sum.attainable_seconds += one.attainable_seconds;
  }
  if (!status.ok()) state.SkipWithError(status.message().c_str());
  return sum;
}

void simulated(benchmark::State& state, const std::vector<AttentionArgs>& calls, int threads) {
  Prediction one, all;
  for (auto _ : state) {
    one = predict(calls, 1, state);
    all = predict(calls, threads, state);
  }
  state.counters["efficiency"] = one.seconds / all.seconds / threads;
  state.counters["balance"] = all.attainable_seconds / all.seconds;
}

void register_all() {
  // 60 users at lengths between an eighth and all of 8192 tokens, and 4 prompts that are extended by a
  // quarter.
  static std::vector<std::int32_t> lengths;
  for (int user = 0; user < 60; ++user) lengths.push_back(8192 / 64 * (8 + user * 37 % 57));
  AttentionArgs users = shape(60, 1, 8192);
  users.seqused_k = lengths.data();
  const std::pair<const char*, std::vector<AttentionArgs>> workloads[] = {
      {"simulated_prefill_4x12", {shape(1, 8192, 8192)}},
      {"simulated_mixed64_4x12", {shape(4, 2048, 8192), users}},
      {"simulated_decode_4x12", {users}}};
  for (const auto& [name, calls] : workloads) {
    benchmark::RegisterBenchmark((std::string(name) + "/host/t48").c_str(), [calls = calls](
                                                                                benchmark::State& state) {
      simulated(state, calls, 48);
    })->Iterations(1);
  }
}

}  // namespace
}  // namespace kumiko::bench

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  kumiko::bench::register_all();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
