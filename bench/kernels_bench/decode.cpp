// SPDX-License-Identifier: Apache-2.0
#include "kernels/decode/decode.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "bench/kernels_bench/common.h"
#include "kernels/pack/pack.h"

namespace kumiko::bench {
namespace {

constexpr std::int64_t kKeys = 256, kDim = 128;
constexpr int kOneGroup = 8;                   // of 2^8 keys
constexpr std::int64_t kBlock = kKeys * kDim;  // Floats of K, and of V.

enum class From {
  memory,  ///< Block after block of K and V through the whole pool, as a decode step reads KV data larger
           ///< than the caches.
  l2,      ///< One block again and again, each step alone: the arithmetic without the memory.
};

void decode_block(benchmark::State& state, const kernels::DecodeKernel& row, std::int64_t rows, From from) {
  const DataType type = static_cast<DataType>(row.element);
  const std::int64_t bytes = kBlock * bytes_of(type);  // of K, and of V
  const std::span<const std::byte> pool = data_pool(type);
  const std::int64_t blocks = static_cast<std::int64_t>(pool.size()) / 2 / bytes;
  const std::byte* keys = pool.data();
  const std::byte* values = keys + blocks * bytes;
  const auto element = [type](const std::byte* at, std::int64_t i) {
    return load_widened(type, at + i * bytes_of(type));
  };
  Floats q(rows * kDim), scores(rows * kKeys), m(rows), l(rows), o(rows * kDim);
  const bool pairs = row.product == kernels::Element::bf16;
  Floats steps(rows * kDim);  // the query in the kernel's layout
  for (std::int64_t i = 0; i < rows * kDim; ++i)
    q[i] = pairs ? of_pair(pair_of(0.1f * q[i], 0), 0) : 0.1f * q[i];
  for (std::int64_t i = 0; i < rows * kDim; ++i) {
    if (!pairs) steps[i] = q[i];
    if (pairs && i % 2 == 0) steps[i / 2] = pair_of(q[i], q[i + 1]);
  }
  const std::vector<std::int32_t> begin(static_cast<std::size_t>(rows), 0);
  const std::vector<std::int32_t> end(static_cast<std::size_t>(rows), kKeys);
  const kernels::KeyRun every_key{0, kKeys};
  const std::vector<kernels::KeyRuns> runs(static_cast<std::size_t>(rows), {&every_key, 1});
  m.fill(-std::numeric_limits<float>::infinity());
  l.fill(0.0f);
  o.fill(0.0f);
  const std::int64_t width = kDim * bytes_of(type);
  const auto run_steps = [&](const std::byte* k, const std::byte* v, bool scored, bool weighed, bool added) {
    const auto rows_at = [width](const std::byte* at, std::int64_t count) {
      return kernels::RowRange{reinterpret_cast<const char*>(at), width, width, count};
    };
    const kernels::RowRange ranges[] = {rows_at(k, kKeys), rows_at(v, kKeys),
                                        rows_at(from == From::l2 ? k : k + bytes, kernels::kNoEnd)};
    const kernels::RowList keys_ahead{ranges, ranges + 1}, values_ahead{ranges + 1, ranges + 2};
    const void *const key_group = k, *const value_group = v;
    if (scored)
      row.scores({steps.data(),
                  pairs ? kDim / 2 : kDim,
                  {&key_group, kDim, kOneGroup},
                  rows,
                  kDim,
                  kKeys,
                  scores.data(),
                  kKeys,
                  keys_ahead,
                  {}});
    if (weighed)
      row.softmax({scores.data(),
                   kKeys,
                   rows,
                   kKeys,
                   begin.data(),
                   end.data(),
                   m.data(),
                   l.data(),
                   o.data(),
                   kDim,
                   kDim,
                   1.0f,
                   values_ahead,
                   {}});
    if (added)
      row.add_values({scores.data(),
                      kKeys,
                      {&value_group, kDim, kOneGroup},
                      rows,
                      kDim,
                      kKeys,
                      runs.data(),
                      l.data(),
                      o.data(),
                      kDim,
                      values_ahead,
                      {}});
  };
  const auto run_block = [&](const std::byte* k, const std::byte* v) { run_steps(k, v, true, true, true); };
  run_block(keys, values);
  for (std::int64_t r = 0; r < rows; ++r) {
    std::vector<double> s(kKeys), want(kDim, 0.0);
    double top = -1e300, sum = 0;
    for (std::int64_t j = 0; j < kKeys; ++j) {
      double dot = 0;
      for (std::int64_t d = 0; d < kDim; ++d)
        dot += static_cast<double>(q[r * kDim + d]) * element(keys, j * kDim + d);
      s[static_cast<std::size_t>(j)] = dot;
      top = std::max(top, dot);
    }
    for (std::int64_t j = 0; j < kKeys; ++j) {
      const double p = std::exp2(s[static_cast<std::size_t>(j)] - top);
      sum += p;
      for (std::int64_t d = 0; d < kDim; ++d)
        want[static_cast<std::size_t>(d)] += p * element(values, j * kDim + d);
    }
    for (std::int64_t d = 0; d < kDim; ++d) {
      if (!close(o[r * kDim + d] / l[r], want[static_cast<std::size_t>(d)] / sum, pairs ? 4e-3 : 1e-5)) {
        return state.SkipWithError("wrong answer");
      }
    }
  }
  if (from == From::l2) {
    std::vector<double> seconds[3];
    for (auto _ : state) {
      double sum = 0;
      for (int step = 0; step < 3; ++step) {
        seconds[step].push_back(seconds_per_call(kKernelWindow, thread_seconds, [&] {
          run_steps(keys, values, step == 0, step == 1, step == 2);
        }));
        sum += seconds[step].back();
      }
      state.SetIterationTime(sum);
    }
    state.counters["scores_us"] = 1e6 * median(seconds[0]);
    state.counters["softmax_us"] = 1e6 * median(seconds[1]);
    state.counters["values_us"] = 1e6 * median(seconds[2]);
    return;
  }
  static ReadCeiling ceiling(pool, first_core(), Clock::cpu);
  ceiling.read_from(pool);
  std::int64_t block = 0;
  const auto run = [&] {
    block = (block + 1) % blocks;
    run_block(keys + block * bytes, values + block * bytes);
  };
  report_bandwidth(state, measure_rounds(
                              state, 2.0 * static_cast<double>(bytes),
                              [&] { return seconds_per_call(30e-3, thread_seconds, run); },
                              [&] { return ceiling.bytes_per_second(kReadWindow); }));
}

}  // namespace

void register_decode() {
  for (const kernels::DecodeKernel& row : kernels::decode_kernels()) {
    if (row.product == kernels::Element::f16)
      continue;                            // They take operands of another form (ranges, f16 steps).
    for (std::int64_t rows : {1, 4, 8}) {  // Query heads of a group: MHA, GQA 4 and 8.
      const std::string name = row.name + ("_rows" + std::to_string(rows));
      register_kernel(name, row.isa, [&row, rows](benchmark::State& state) {
        decode_block(state, row, rows, From::memory);
      });
      register_kernel("steps_" + name, row.isa,
                      [&row, rows](benchmark::State& state) { decode_block(state, row, rows, From::l2); });
    }
  }
}

}  // namespace kumiko::bench
