// SPDX-License-Identifier: Apache-2.0
// Panels of int8_scores.h for any shape of tile, and the scores of few rows. Compilers vectorise the loops
// over dims in each ISA's own file.
#pragma once

#include <cstring>

#include "kernels/decode/rows.h"
#include "kernels/int8_scores/int8_scores.h"
#include "kernels/simd/fetch.h"

namespace kumiko::kernels {
namespace {  // as in the vector types' headers: one copy per ISA file

/// What a lane holds: signed bytes, the same plus 128 for instructions that want them unsigned, or int16.
enum class Int8Form : std::uint8_t { bytes, bytes_plus_128, pairs };

/// Writes the steps of a row to dst, `to_next` bytes apart.
template <Int8Form kForm>
inline void write_steps(const std::int8_t* src, std::int64_t dim, std::byte* dst, std::int64_t to_next) {
  constexpr std::int64_t kPerStep = kForm == Int8Form::pairs ? 2 : 4;
  const auto group = [&](const std::int8_t* from) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, from, static_cast<std::size_t>(kPerStep));
    if constexpr (kForm == Int8Form::bytes_plus_128) bits ^= 0x80808080u;
    if constexpr (kForm == Int8Form::pairs) {
      const auto low = static_cast<std::uint16_t>(static_cast<std::int8_t>(bits & 0xffu)),
                 high = static_cast<std::uint16_t>(static_cast<std::int8_t>(bits >> 8));
      bits = static_cast<std::uint32_t>(high) << 16 | low;
    }
    return bits;
  };
  std::int64_t d = 0;
  for (; d + kPerStep <= dim; d += kPerStep, dst += to_next) {
    const std::uint32_t bits = group(src + d);
    std::memcpy(dst, &bits, sizeof bits);
  }
  if (d == dim) return;
  std::int8_t rest[4] = {};
  std::memcpy(rest, src + d, static_cast<std::size_t>(dim - d));
  const std::uint32_t bits = group(rest);
  std::memcpy(dst, &bits, sizeof bits);
}

template <Int8Form kForm>
void pack_int8_queries(const Int8QueryArgs& args) {
  constexpr std::int64_t kPerStep = kForm == Int8Form::pairs ? 2 : 4;
  auto* const dst = static_cast<std::byte*>(args.dst);
  if (args.rows_used < args.nr)
    std::memset(dst, 0, static_cast<std::size_t>((args.dim + kPerStep - 1) / kPerStep * args.nr * 4));
  for (std::int64_t n = 0; n < args.rows_used; ++n)
    write_steps<kForm>(static_cast<const std::int8_t*>(args.rows[n]), args.dim, dst + n * 4, args.nr * 4);
}

inline std::int32_t sum_of(const std::int8_t* row, std::int64_t dim) {
  std::int32_t sum = 0;
  for (std::int64_t d = 0; d < dim; ++d) sum += row[d];
  return sum;
}

/// `kStarts`: for queries plus 128.
template <Int8Form kForm, int kMr, bool kStarts>
void pack_int8_keys(const Int8KeyArgs& args) {
  constexpr std::int64_t kPerStep = kForm == Int8Form::pairs ? 2 : 4, kRow = kMr * 4;
  const auto* const src = static_cast<const std::int8_t*>(args.src);
  auto* dst = static_cast<std::byte*>(args.dst);
  const std::int64_t bytes = ((args.dim + kPerStep - 1) / kPerStep + kStarts) * kRow;
  for (std::int64_t first = 0; first < args.rows; first += kMr, dst += bytes) {
    const std::int64_t rows = args.rows - first < kMr ? args.rows - first : kMr;
    if (rows < kMr) std::memset(dst, 0, static_cast<std::size_t>(bytes));
    for (std::int64_t m = 0; m < rows; ++m) {
      const std::int8_t* const row = src + (first + m) * args.stride;
      std::byte* const to = dst + m * 4;
      if constexpr (kStarts) {
        const std::int32_t start = -128 * sum_of(row, args.dim);
        std::memcpy(to, &start, sizeof start);
      }
      write_steps<kForm>(row, args.dim, to + (kStarts ? kRow : 0), kRow);
    }
  }
}

inline std::int32_t chunk_product(const std::int16_t* q, const std::int16_t* k, std::int64_t dims) {
  std::int32_t sum = 0;
  for (std::int64_t at = 0; at < dims; at += kInt8Chunk) {
    for (std::int64_t d = 0; d < kInt8Chunk; ++d)
      sum += static_cast<std::int32_t>(q[at + d]) * static_cast<std::int32_t>(k[at + d]);
  }
  return sum;
}

inline void int8_rows(const Int8RowsArgs& args) {
  constexpr std::int64_t kMostDims = 576;  // of any head
  alignas(64) std::int16_t key[kMostDims];
  std::memset(key + args.dim, 0, static_cast<std::size_t>(args.q_stride - args.dim) * sizeof *key);
  RowFetcher ahead(args.rows_ahead, args.fetch.keys, 1, 1);
  const std::int64_t lines = lines_of_row(args.dim);
  for (std::int64_t j = 0; j < args.kv; ++j) {
    const auto* const row = row_of<std::int8_t>(args.k, j);
    for (std::int64_t line = 0; line < lines; ++line) ahead.fetch_line();
    for (std::int64_t d = 0; d < args.dim; ++d) key[d] = row[d];
    for (std::int64_t r = 0; r < args.rows; ++r) {
      const std::int32_t sum = chunk_product(args.q + r * args.q_stride, key, args.q_stride);
      args.scores[r * args.score_stride + j] = static_cast<float>(sum) * args.q_factor[r] * args.k_factor[j];
    }
  }
}

}  // namespace
}  // namespace kumiko::kernels

/// A row's functions beside its tiles. Keys are never offset.
#define KUMIKO_INT8_PANELS(name, query_form, key_form, mr, has_starts) \
  void name##_query(const Int8QueryArgs& args) noexcept {              \
    pack_int8_queries<Int8Form::query_form>(args);                     \
  }                                                                    \
  void name##_key(const Int8KeyArgs& args) noexcept {                  \
    pack_int8_keys<Int8Form::key_form, mr, has_starts>(args);          \
  }                                                                    \
  void name##_rows(const Int8RowsArgs& args) noexcept {                \
    int8_rows(args);                                                   \
  }
