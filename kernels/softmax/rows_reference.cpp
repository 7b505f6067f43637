// SPDX-License-Identifier: Apache-2.0
// The spec of rows.h in plain C++.
#include <bit>
#include <cmath>
#include <limits>

#include "kernels/element.h"
#include "kernels/simd/exp2.h"
#include "kernels/softmax/rows.h"

namespace kumiko::kernels {
namespace {

constexpr std::int64_t kPanelRows = 8;

template <class T>
const T* row_at(const void* data, std::int64_t stride, std::int64_t m) {
  return reinterpret_cast<const T*>(static_cast<const char*>(data) + m * stride);
}
template <class T>
T* row_at(void* data, std::int64_t stride, std::int64_t m) {
  return reinterpret_cast<T*>(static_cast<char*>(data) + m * stride);
}

float value_of(std::int32_t x) {
  return static_cast<float>(x);
}
template <class T>
float value_of(T x) {
  return to_float(x);
}

/// In double, which holds x exactly except for the last bits of a product of two f32.
template <bool kFast>
float exponential(float s, float scale, float value) {
  if (value == -std::numeric_limits<float>::infinity()) value = 0.0f;
  if (kFast && !std::isfinite(value)) return std::numeric_limits<float>::quiet_NaN();
  const double x = static_cast<double>(s) * scale - value;
  if (x < kExp2Underflow) return 0.0f;
  return static_cast<float>(kFast ? std::exp2(std::nearbyint(x * 64) / 64) : std::exp2(x));
}

template <class S, class T, bool kFast>
void exp2_rows(const RowArgs& args) {
  for (std::int64_t m = 0; m < args.rows; ++m) {
    const S* src = row_at<S>(args.src, args.src_stride, m);
    T* dst = row_at<T>(args.dst, args.dst_stride, m);
    for (std::int64_t n = 0; n < args.n; ++n)
      from_float(exponential<kFast>(value_of(src[n]), args.scale, args.values[m]), dst + n);
  }
}

template <class S, class T, bool kFast>
void exp2_panel(const RowArgs& args) {
  for (std::int64_t n = 0; n < args.n; ++n) {
    for (std::int64_t m = 0; m < kPanelRows; ++m) {
      const float p = m < args.rows ? exponential<kFast>(value_of(row_at<S>(args.src, args.src_stride, m)[n]),
                                                         args.scale, args.values[m])
                                    : 0.0f;
      from_float(p, static_cast<T*>(args.dst) + n * kPanelRows + m);
    }
  }
}

template <class S, class T>
void multiply(const RowArgs& args) {
  for (std::int64_t m = 0; m < args.rows; ++m) {
    const S* src = row_at<S>(args.src, args.src_stride, m);
    T* dst = row_at<T>(args.dst, args.dst_stride, m);
    for (std::int64_t n = 0; n < args.n; ++n) from_float(to_float(src[n]) * args.values[m] + 0.0f, dst + n);
  }
}

}  // namespace

#define KUMIKO_EXP2(source, S)                                                       \
  void rows_exp2_##source##_f32_reference(const RowArgs* args) noexcept {            \
    exp2_rows<S, float, false>(*args);                                               \
  }                                                                                  \
  void rows_exp2_##source##_f16_reference(const RowArgs* args) noexcept {            \
    exp2_rows<S, F16, false>(*args);                                                 \
  }                                                                                  \
  void rows_exp2_fast_##source##_f32_reference(const RowArgs* args) noexcept {       \
    exp2_rows<S, float, true>(*args);                                                \
  }                                                                                  \
  void rows_exp2_fast_##source##_f16_reference(const RowArgs* args) noexcept {       \
    exp2_rows<S, F16, true>(*args);                                                  \
  }                                                                                  \
  void rows_exp2_panel_##source##_f32_reference(const RowArgs* args) noexcept {      \
    exp2_panel<S, float, false>(*args);                                              \
  }                                                                                  \
  void rows_exp2_panel_##source##_f16_reference(const RowArgs* args) noexcept {      \
    exp2_panel<S, F16, false>(*args);                                                \
  }                                                                                  \
  void rows_exp2_fast_panel_##source##_f32_reference(const RowArgs* args) noexcept { \
    exp2_panel<S, float, true>(*args);                                               \
  }                                                                                  \
  void rows_exp2_fast_panel_##source##_f16_reference(const RowArgs* args) noexcept { \
    exp2_panel<S, F16, true>(*args);                                                 \
  }

extern "C" {
KUMIKO_EXP2(f32, float)
KUMIKO_EXP2(i32, std::int32_t)

void rows_panel_f32_f32_reference(const RowArgs* args) noexcept {
  for (std::int64_t n = 0; n < args->n; ++n) {
    for (std::int64_t m = 0; m < kPanelRows; ++m) {
      static_cast<float*>(args->dst)[n * kPanelRows + m] =
          m < args->rows ? row_at<float>(args->src, args->src_stride, m)[n] : 0.0f;
    }
  }
}
void rows_max_f32_reference(const RowArgs* args) noexcept {
  for (std::int64_t m = 0; m < args->rows; ++m) {
    float top = args->values[m];
    const float* src = row_at<float>(args->src, args->src_stride, m);
    for (std::int64_t n = 0; n < args->n; ++n) {
      if (src[n] > top || std::isnan(src[n])) top = std::isnan(top) ? top : src[n];
    }
    args->values[m] = top;
  }
}
void rows_sum_f32_reference(const RowArgs* args) noexcept {
  constexpr int kSums = 128;
  for (std::int64_t m = 0; m < args->rows; ++m) {
    float sums[kSums] = {};
    const float* src = row_at<float>(args->src, args->src_stride, m);
    for (std::int64_t n = 0; n < args->n; ++n) sums[n % kSums] += src[n];
    // Fold vectors of 16 first, then the lanes of one, neighbours each time.
    for (int width = 16; width < kSums; width *= 2) {
      for (int i = 0; i < kSums; i += 2 * width)
        for (int lane = 0; lane < 16; ++lane) sums[i + lane] += sums[i + width + lane];
    }
    for (int width = 1; width < 16; width *= 2) {
      for (int i = 0; i < 16; i += 2 * width) sums[i] += sums[i + width];
    }
    args->values[m] += sums[0];
  }
}
void rows_panel_sum_f32_reference(const RowArgs* args) noexcept {
  constexpr int kSums = 16;
  const float* src = static_cast<const float*>(args->src);
  for (std::int64_t m = 0; m < args->rows; ++m) {
    float sums[kSums] = {};
    for (std::int64_t n = 0; n < args->n; ++n) sums[n % kSums] += src[n * kPanelRows + m];
    for (int width = 2; width < kSums; width *= 2) {
      for (int i = 0; i < kSums; i += 2 * width)
        for (int odd = 0; odd < 2; ++odd) sums[i + odd] += sums[i + width + odd];
    }
    args->values[m] += sums[0] + sums[1];
  }
}
void rows_multiply_f32_f32_reference(const RowArgs* args) noexcept {
  multiply<float, float>(*args);
}
void rows_multiply_f32_f16_reference(const RowArgs* args) noexcept {
  multiply<float, F16>(*args);
}
void rows_multiply_f16_f16_reference(const RowArgs* args) noexcept {
  multiply<F16, F16>(*args);
}
}

}  // namespace kumiko::kernels
