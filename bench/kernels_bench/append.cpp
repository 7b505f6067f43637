// SPDX-License-Identifier: Apache-2.0
#include "kernels/append/append.h"

#include "bench/kernels_bench/common.h"

namespace kumiko::bench {
namespace {

constexpr std::int64_t kDim = 128, kHeads = 8;

/// A token's keys, rotated in halves.
void rotate(benchmark::State& state, const kernels::AppendKernel& row) {
  const std::int64_t half = kDim / 2;
  Elements in(row.from, kHeads * kDim, 1), out(row.to, kHeads * kDim, 2);
  Floats cos(half, 3), sin(half, 4);
  const kernels::AppendArgs args = {
      in.data(), kDim,       out.data(), kDim, kHeads, kDim, nullptr, 0.0f, kernels::RotaryPairs::halves,
      kDim,      cos.data(), sin.data()};
  row.rows(args);
  std::byte memory[4];
  for (std::int64_t i = 0; i < kHeads * kDim; ++i) {
    const std::int64_t d = i % kDim, n = d % half;
    const float own = in[i], partner = in[d < half ? i + half : i - half];
    const float want = d < half ? own * cos[n] - partner * sin[n] : own * cos[n] + partner * sin[n];
    store_rounded(static_cast<DataType>(row.to), want, memory);
    // This file's compiler may fuse what the contract rounds apart: an ulp of numbers below 8.
    const double ulp = row.to == kernels::Element::f32    ? 0x1p-21
                       : row.to == kernels::Element::bf16 ? 0x1p-5
                                                          : 0x1p-8;
    if (!close(out[i], load_widened(static_cast<DataType>(row.to), memory), ulp))
      return state.SkipWithError("wrong answer");
  }
  judge_elements(state, static_cast<double>(kHeads * kDim), [&] { row.rows(args); });
}

}  // namespace

void register_append() {
  for (const kernels::AppendKernel& row : kernels::append_kernels())
    register_kernel(row.name, row.isa, [&row](benchmark::State& state) { rotate(state, row); });
}

}  // namespace kumiko::bench
