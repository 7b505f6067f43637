// SPDX-License-Identifier: Apache-2.0
#include "elementwise.h"

#include <algorithm>
#include <cmath>

// The example is built for baseline x86-64, where these loops are 16 times slower than with the machine's
// best ISA (GELU alone would take as long as the matrix products). So GCC makes one copy per ISA and picks
// one at load time.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_THREAD__) && \
    !defined(__SANITIZE_ADDRESS__)
#define PER_ISA __attribute__((target_clones("default", "arch=haswell", "arch=skylake-avx512")))
#else
#define PER_ISA
#endif

namespace inference {
namespace {

// Sixteen partial sums: the compiler may not reorder a float sum by itself, and a single chain of additions
// waits 4 cycles for each.
constexpr std::int64_t kLanes = 16;

template <class Value>
inline __attribute__((always_inline)) float lane_sum(std::int64_t width, Value value) {
  float lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += value(i + lane);
  }
  for (; i < width; ++i) lanes[i % kLanes] += value(i);
  for (std::int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (std::int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

}  // namespace

PER_ISA void layer_norm(std::int64_t rows, std::int64_t width, float* x, const float* gain,
                        const float* shift, float epsilon) {
  for (std::int64_t r = 0; r < rows; ++r, x += width) {
    const float mean = lane_sum(width, [x](std::int64_t i) { return x[i]; }) / static_cast<float>(width);
    const float variance =
        lane_sum(width, [x, mean](std::int64_t i) { return (x[i] - mean) * (x[i] - mean); }) /
        static_cast<float>(width);
    const float factor = 1.0f / std::sqrt(variance + epsilon);
    for (std::int64_t i = 0; i < width; ++i) x[i] = (x[i] - mean) * factor * gain[i] + shift[i];
  }
}

PER_ISA void add_three(std::int64_t width, const float* a, const float* b, const float* c, float* y) {
  for (std::int64_t i = 0; i < width; ++i) y[i] = a[i] + b[i] + c[i];
}

PER_ISA void mean_pool_normalize(std::int64_t rows, std::int64_t width, const float* x, float* out) {
  std::fill_n(out, width, 0.0f);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t i = 0; i < width; ++i) out[i] += x[r * width + i];
  }
  for (std::int64_t i = 0; i < width; ++i) out[i] /= static_cast<float>(rows);
  const float square = lane_sum(width, [out](std::int64_t i) { return out[i] * out[i]; });
  const float factor = 1.0f / std::max(std::sqrt(square), 1e-12f);
  for (std::int64_t i = 0; i < width; ++i) out[i] *= factor;
}

PER_ISA void dot_rows(std::int64_t rows, std::int64_t width, const float* matrix, const float* x,
                      float* scores) {
  for (std::int64_t r = 0; r < rows; ++r, matrix += width) {
    scores[r] = lane_sum(width, [matrix, x](std::int64_t i) { return matrix[i] * x[i]; });
  }
}

}  // namespace inference
