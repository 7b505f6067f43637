// SPDX-License-Identifier: Apache-2.0
// Packs the panels of int8_scores.h for any shape of tile. A Form says what a step of 4 bytes holds: step()
// makes one step, and load(), if there is one, a vector of steps.
#pragma once

#include <cstring>

#include "kernels/int8_scores/int8_scores.h"

namespace kumiko::kernels {
namespace {  // as in the vector types' headers: one copy per ISA file

/// Four dims as they are, read step by step.
struct ScalarBytes {
  static constexpr std::int64_t kPerStep = 4;
  static std::uint32_t step(std::uint32_t bytes) { return bytes; }
};
/// The same plus 128, for instructions that take them as unsigned.
struct ScalarUnsigned {
  static constexpr std::int64_t kPerStep = 4;
  static std::uint32_t step(std::uint32_t bytes) { return bytes ^ 0x80808080u; }
};
/// Two dims as int16.
struct ScalarPairs {
  static constexpr std::int64_t kPerStep = 2;
  static std::uint32_t step(std::uint32_t bytes) {
    // Sign-extended in place: x ^ 0x80 is x + 128 of a byte.
    const auto wide = [](std::uint32_t byte) { return ((byte & 0xffu) ^ 0x80u) - 0x80u; };
    const std::uint32_t low = wide(bytes), high = wide(bytes >> 8);
    return high << 16 | (low & 0xffffu);
  }
};
/// A Form with vectors: V, and load() of lanes * kPerStep dims.
template <class Form>
concept VectorForm = requires(const std::int8_t* row) {
  Form::load(row);
};

/// Writes the steps of dims [0, dim) of a row, `to_next` bytes apart.
template <class Form>
inline void write_steps(const std::int8_t* src, std::int64_t dim, std::byte* dst, std::int64_t to_next) {
  for (std::int64_t d = 0; d < dim; d += Form::kPerStep, dst += to_next) {
    std::uint32_t bytes = 0;
    std::memcpy(&bytes, src + d,
                static_cast<std::size_t>(dim - d < Form::kPerStep ? dim - d : Form::kPerStep));
    bytes = Form::step(bytes);
    std::memcpy(dst, &bytes, sizeof bytes);
  }
}

/// Reads whole vectors of steps of `lanes` rows and transposes them: store(step, vector) for each step.
/// Returns how many dims are done.
template <class Form, class RowAt, class Store>
inline std::int64_t transpose_rows(std::int64_t dim, RowAt row_at, Store store) {
  using V = typename Form::V;
  constexpr std::int64_t kDims = V::kLanes * Form::kPerStep;
  std::int64_t d = 0;
  for (; d + kDims <= dim; d += kDims) {
    typename V::Reg x[V::kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < V::kLanes; ++i) x[i] = Form::load(row_at(i) + d);
    V::transpose(x);
#pragma GCC unroll 16
    for (int i = 0; i < V::kLanes; ++i) store(d / Form::kPerStep + i, x[i]);
  }
  return d;
}

template <class Form>
void pack_int8_queries(const Int8QueryArgs& args) {
  auto* const dst = static_cast<std::byte*>(args.dst);
  const std::int64_t row_bytes = args.nr * 4, steps = (args.dim + Form::kPerStep - 1) / Form::kPerStep;
  if (args.rows_used < args.nr) std::memset(dst, 0, static_cast<std::size_t>(steps * row_bytes));
  const auto row = [&](std::int64_t n) { return static_cast<const std::int8_t*>(args.rows[n]); };
  const auto write_from = [&](std::int64_t n, std::int64_t d) {
    write_steps<Form>(row(n) + d, args.dim - d, dst + d / Form::kPerStep * row_bytes + n * 4, row_bytes);
  };
  std::int64_t n = 0;
  if constexpr (VectorForm<Form>) {
    using V = typename Form::V;
    for (; n + V::kLanes <= args.rows_used; n += V::kLanes) {
      const std::int64_t done = transpose_rows<Form>(
          args.dim, [&](int i) { return row(n + i); },
          [&](std::int64_t step, typename V::Reg x) {
            V::store(reinterpret_cast<float*>(dst + step * row_bytes + n * 4), x);
          });
      for (int i = 0; i < V::kLanes && done < args.dim; ++i) write_from(n + i, done);
    }
  }
  for (; n < args.rows_used; ++n) write_from(n, 0);
}

inline std::int32_t sum_of(const std::int8_t* row, std::int64_t dim) {
  std::int32_t sum = 0;
  for (std::int64_t d = 0; d < dim; ++d) sum += row[d];
  return sum;
}

template <class Form, int kMr, bool kStarts>
void pack_int8_keys(const Int8KeyArgs& args) {
  constexpr std::int64_t kRow = kMr * 4;
  const std::int64_t bytes = ((args.dim + Form::kPerStep - 1) / Form::kPerStep + kStarts) * kRow;
  auto* const dst = static_cast<std::byte*>(args.dst);
  const auto row = [&](std::int64_t j) {
    return static_cast<const std::int8_t*>(args.src) + j * args.stride;
  };
  const auto panel = [&](std::int64_t j) { return dst + j / kMr * bytes + kStarts * kRow; };
  const auto write_from = [&](std::int64_t j, std::int64_t d) {
    std::byte* const to = panel(j) + j % kMr * 4;
    write_steps<Form>(row(j) + d, args.dim - d, to + d / Form::kPerStep * kRow, kRow);
    if constexpr (kStarts) {
      const std::int32_t start = -128 * sum_of(row(j), args.dim);
      std::memcpy(to - kRow, &start, sizeof start);
    }
  };
  if (args.rows % kMr != 0) std::memset(dst + args.rows / kMr * bytes, 0, static_cast<std::size_t>(bytes));
  std::int64_t j = 0;
  if constexpr (VectorForm<Form>) {
    using V = typename Form::V;
    static_assert(V::kLanes == 2 * kMr || kMr % V::kLanes == 0);  // two panels, or part of one
    for (; j + V::kLanes <= args.rows; j += V::kLanes) {
      const std::int64_t done = transpose_rows<Form>(
          args.dim, [&](int i) { return row(j + i); },
          [&](std::int64_t step, typename V::Reg x) {
            float* const low = reinterpret_cast<float*>(panel(j) + j % kMr * 4 + step * kRow);
            if constexpr (V::kLanes > kMr)
              V::store_halves(low, reinterpret_cast<float*>(panel(j + kMr) + step * kRow), x);
            else
              V::store(low, x);
          });
      for (int i = 0; i < V::kLanes && (kStarts || done < args.dim); ++i) write_from(j + i, done);
    }
  }
  for (; j < args.rows; ++j) write_from(j, 0);
}

}  // namespace
}  // namespace kumiko::kernels

/// Defines the packing functions of a row of kernels.inc.
#define KUMIKO_INT8_PANELS(name, query_form, key_form, mr, has_starts) \
  void name##_query(const Int8QueryArgs& args) noexcept {              \
    pack_int8_queries<query_form>(args);                               \
  }                                                                    \
  void name##_key(const Int8KeyArgs& args) noexcept {                  \
    pack_int8_keys<key_form, mr, has_starts>(args);                    \
  }
