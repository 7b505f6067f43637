// SPDX-License-Identifier: Apache-2.0
// Shared by the kernel benchmarks: operands, registration, and measurement of a row. Each file registers one
// operation's table, so that a new row of the table is a new benchmark automatically.
#pragma once

#include <benchmark/benchmark.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "bench/benchmark_rounds.h"
#include "bench/data_pool.h"
#include "bench/machine_peak.h"
#include "kernels/cpu.h"
#include "kernels/element.h"

namespace kumiko::bench {

void register_gemm();
void register_softmax();
void register_pack();
void register_score_tile();
void register_state();
void register_store();
void register_append();
void register_decode();
void register_key_tiles();

constexpr double kKernelWindow = 6e-3;

/// Floats aligned to a cache line, random in [-2, 2) unless filled otherwise.
class Floats {
 public:
  explicit Floats(std::int64_t n, std::uint64_t seed = 1)
      : size_(n), storage_(static_cast<std::size_t>(n) + 16) {
    void* start = storage_.data();
    std::size_t space = storage_.size() * sizeof(float);
    data_ = static_cast<float*>(std::align(64, static_cast<std::size_t>(n) * sizeof(float), start, space));
    Random random(0x9e3779b97f4a7c15ull * seed);
    for (std::int64_t i = 0; i < n; ++i) data_[i] = random.uniform();
  }
  Floats(const Floats&) = delete;
  Floats& operator=(const Floats&) = delete;
  void fill(float x) {
    for (std::int64_t i = 0; i < size_; ++i) data_[i] = x;
  }
  float* data() { return data_; }
  float& operator[](std::int64_t i) { return data_[i]; }

 private:
  std::int64_t size_;
  std::vector<float> storage_;
  float* data_;
};

/// The values of Floats in an element type of the kernel tables.
class Elements {
 public:
  Elements(kernels::Element element, std::int64_t n, std::uint64_t seed = 1)
      : type_(static_cast<DataType>(element)), values_(static_cast<std::size_t>(n * bytes_of(type_))) {
    Floats wide(n, seed);
    for (std::int64_t i = 0; i < n; ++i) store_rounded(type_, wide[i], at(i));
  }
  void* data() { return values_.data(); }
  float operator[](std::int64_t i) { return load_widened(type_, at(i)); }

 private:
  std::byte* at(std::int64_t i) { return values_.data() + i * bytes_of(type_); }
  DataType type_;
  std::vector<std::byte> values_;
};

/// A step of a product of bf16 pairs (gemm.h): two numbers rounded to bf16 in 4 bytes; and number k of such a
/// step.
inline float pair_of(float first, float second) {
  kernels::Bf16 low, high;
  kernels::from_float(first, &low), kernels::from_float(second, &high);
  return std::bit_cast<float>(static_cast<std::uint32_t>(high.bits) << 16 | low.bits);
}
inline float of_pair(float pair, std::int64_t k) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(pair);
  return std::bit_cast<float>(k % 2 == 1 ? bits & 0xffff0000u : bits << 16);
}
inline std::int64_t per_step(kernels::Element product) {
  return product == kernels::Element::f32 ? 1 : 2;
}
inline float of_step(kernels::Element product, float step, std::int64_t k) {
  return product == kernels::Element::f32 ? step : of_pair(step, k);
}

inline bool close(double actual, double expected, double tolerance) {
  return std::abs(actual - expected) <= tolerance;  // False for NaN.
}

/// The core to which main() binds the thread that runs the kernels.
inline std::vector<int> first_core() {
  static const std::vector<int> core = {allowed_cores().front()};
  return core;
}

/// Registers "<what>/<isa>/t1" if this host runs `isa`.
template <class Body>
void register_kernel(const std::string& what, kernels::Isa isa, Body body) {
  if (!(kernels::host_isas() & kernels::bit(isa))) return;
  benchmark::RegisterBenchmark((what + "/" + kernels::name(isa) + "/t1").c_str(), body)
      ->UseManualTime()
      ->Iterations(kRounds);
}

/// Reports FLOP/s of `run`, which does `flops`, against the FMA peak of `isa`.
template <class Run>
void judge_flops(benchmark::State& state, kernels::Isa isa, double flops, Run run) {
  const FmaRow* peak = find_fma_row(kernels::name(isa));
  if (!peak) return state.SkipWithError("machine_peak has no row for this ISA");
  report_compute(state,
                 measure_rounds(
                     state, flops, [&] { return seconds_per_call(kKernelWindow, thread_seconds, run); },
                     [&] { return fma_flops(*peak, first_core(), kFmaWindow, Clock::cpu); }));
}

/// Reports nanoseconds per element.
template <class Run>
void judge_elements(benchmark::State& state, double elements, Run run) {
  std::vector<double> ns;
  for (auto _ : state) {
    const double seconds = seconds_per_call(kKernelWindow, thread_seconds, run);
    ns.push_back(seconds * 1e9 / elements);
    state.SetIterationTime(seconds);
  }
  state.counters["ns_per_element"] = median(ns);
}

}  // namespace kumiko::bench
