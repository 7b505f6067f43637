// SPDX-License-Identifier: Apache-2.0
// The read loop, written once over a vector type and instantiated by each ISA file.
#pragma once

#include <cstddef>
#include <cstdint>

#include "bench/machine_peak.h"

namespace kumiko::bench {
namespace {

constexpr int kLine = 64;
// Lines of one stream read before the next stream's turn: 4 hide the loop's own instructions, more would
// thrash the line-fill buffers.
constexpr int kLinesPerTurn = 4;

template <class Vector, int kStreams, int kPrefetch>
std::uint64_t read_streams(const std::byte* data, std::size_t bytes) noexcept {
  const std::size_t part = bytes / kStreams;
  typename Vector::Reg sum[kStreams];
  for (auto& s : sum) s = Vector::zero();
  for (std::size_t at = 0; at < part; at += kLinesPerTurn * kLine) {
#pragma GCC unroll 8
    for (int s = 0; s < kStreams; ++s) {
      const std::byte* p = data + s * part + at;
#pragma GCC unroll 4
      for (int line = 0; line < kLinesPerTurn; ++line) {
        if constexpr (kPrefetch > 0) __builtin_prefetch(p + line * kLine + kPrefetch, 0, 3);
#pragma GCC unroll 8
        for (int byte = 0; byte < kLine; byte += sizeof(typename Vector::Reg)) {
          sum[s] = Vector::add(sum[s], Vector::load(p + line * kLine + byte));
        }
      }
    }
  }
  std::uint64_t total = 0;
  for (const auto& s : sum) total += Vector::reduce(s);
  return total;
}

// Hardware prefetchers stop at a 4 KiB page; 512 B to 4 KiB ahead covers 60-130 ns of memory latency at 8-32
// GB/s.
template <class Vector>
inline constexpr ReadRow kReadRows[] = {
    {Vector::kIsa, 1, 0, read_streams<Vector, 1, 0>},
    {Vector::kIsa, 2, 0, read_streams<Vector, 2, 0>},
    {Vector::kIsa, 4, 0, read_streams<Vector, 4, 0>},
    {Vector::kIsa, 8, 0, read_streams<Vector, 8, 0>},
    {Vector::kIsa, 1, 512, read_streams<Vector, 1, 512>},
    {Vector::kIsa, 2, 512, read_streams<Vector, 2, 512>},
    {Vector::kIsa, 4, 512, read_streams<Vector, 4, 512>},
    {Vector::kIsa, 8, 512, read_streams<Vector, 8, 512>},
    {Vector::kIsa, 1, 2048, read_streams<Vector, 1, 2048>},
    {Vector::kIsa, 2, 2048, read_streams<Vector, 2, 2048>},
    {Vector::kIsa, 4, 2048, read_streams<Vector, 4, 2048>},
    {Vector::kIsa, 8, 2048, read_streams<Vector, 8, 2048>},
    {Vector::kIsa, 1, 4096, read_streams<Vector, 1, 4096>},
    {Vector::kIsa, 4, 4096, read_streams<Vector, 4, 4096>},
};

}  // namespace
}  // namespace kumiko::bench
