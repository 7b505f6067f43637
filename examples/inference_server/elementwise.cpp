#include "elementwise.h"

#include <algorithm>
#include <cmath>

// The example is built for the baseline x86-64; these loops are 16x slower there than what the machine can do
// (GELU alone would take as long as the matrix products), so GCC makes one copy per ISA and picks at load
// time.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_THREAD__) && \
    !defined(__SANITIZE_ADDRESS__)
#define PER_ISA __attribute__((target_clones("default", "arch=haswell", "arch=skylake-avx512")))
#else
#define PER_ISA
#endif

namespace inference {
namespace {

// erf(x) = x P(x^2) / Q(x^2), minimax in the relative error (1.9e-8) on |x| <= 3.925, where erf is 1
// - 2.8e-8: fitted for this file by iteratively reweighted least squares (Lawson). In f32 its error
// is 3.8e-7.
constexpr float kErfEnd = 3.925f;
constexpr float kP[6] = {1.12837915f,    0.190591829f,    0.0527690154f,
                         0.00377246112f, 0.000284840528f, 2.04602839e-06f};
constexpr float kQ[6] = {1.0f, 0.502240342f, 0.1141819f, 0.0149830187f, 0.00116383442f, 3.80476294e-05f};
constexpr float kSqrtHalf = 0.70710678f;

inline __attribute__((always_inline)) float gelu(float x) {
  const float u = std::min(std::max(x * kSqrtHalf, -kErfEnd), kErfEnd);
  const float z = u * u;
  const float p = ((((kP[5] * z + kP[4]) * z + kP[3]) * z + kP[2]) * z + kP[1]) * z + kP[0];
  const float q = ((((kQ[5] * z + kQ[4]) * z + kQ[3]) * z + kQ[2]) * z + kQ[1]) * z + kQ[0];
  // At the end of the fit 1 - erf is 2.8e-8, less than what f32 resolves there, but x may be large: beyond it
  // erf is 1 exactly.
  const float erf = u <= -kErfEnd ? -1.0f : u >= kErfEnd ? 1.0f : u * p / q;
  return 0.5f * x * (1.0f + erf);
}

// Sixteen partial sums: the compiler may not reorder a float sum by itself, and one chain of additions waits
// 4 cycles for each.
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

PER_ISA void add_layer_norm(std::int64_t rows, std::int64_t width, float* x, const float* y,
                            const float* bias, const float* gain, const float* shift, float epsilon) {
  for (std::int64_t r = 0; r < rows; ++r, x += width) {
    if (y != nullptr) {
      for (std::int64_t i = 0; i < width; ++i) x[i] += y[r * width + i];
    }
    if (bias != nullptr) {
      for (std::int64_t i = 0; i < width; ++i) x[i] += bias[i];
    }
    const float mean = lane_sum(width, [x](std::int64_t i) { return x[i]; }) / static_cast<float>(width);
    const float variance =
        lane_sum(width, [x, mean](std::int64_t i) { return (x[i] - mean) * (x[i] - mean); }) /
        static_cast<float>(width);
    const float factor = 1.0f / std::sqrt(variance + epsilon);
    for (std::int64_t i = 0; i < width; ++i) x[i] = (x[i] - mean) * factor * gain[i] + shift[i];
  }
}

PER_ISA void add_gelu(std::int64_t rows, std::int64_t width, float* x, const float* bias) {
  for (std::int64_t r = 0; r < rows; ++r, x += width) {
    for (std::int64_t i = 0; i < width; ++i) x[i] = gelu(x[i] + bias[i]);
  }
}

PER_ISA void add_bias(std::int64_t width, const float* x, const float* bias, float* y) {
  for (std::int64_t i = 0; i < width; ++i) y[i] = x[i] + bias[i];
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

}  // namespace inference
