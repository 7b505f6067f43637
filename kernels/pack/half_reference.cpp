// SPDX-License-Identifier: Apache-2.0
// The spec of pack.h's product f16 in plain C++, for MR = 4.
#include <cmath>

#include "kernels/pack/pack.h"

namespace kumiko::kernels {

HalfRange half_query_range(float sum_of_magnitudes, float scale) {
  const float total = sum_of_magnitudes * std::fabs(scale);
  int exponent = 14;
  if (total > 0.0f && std::isfinite(total)) std::frexp(total, &exponent);
  // The factor is out of f32's range only where no score is finite, or all are 0.
  return {std::ldexp(scale, 14 - exponent), std::ldexp(1.0f, exponent - 14)};
}

namespace {

constexpr std::int64_t kHalfReferenceMr = 4;

void round_to(F16* to, float x) {
  from_float(x, to);
}

float magnitudes_of(const F16* row, std::int64_t dim) {
  float sum[16] = {};
  for (std::int64_t d = 0; d < dim; ++d) {
    const float x = std::fabs(to_float(row[d]));
    if (std::isfinite(x)) sum[d % 16] += x;
  }
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) sum[i] += sum[i + half];
  }
  return sum[0];
}

int exponent_of(const F16* row, std::int64_t dim) {
  float largest = 0.0f;
  for (std::int64_t d = 0; d < dim; ++d) {
    const float x = std::fabs(to_float(row[d]));
    if (std::isfinite(x) && x > largest) largest = x;
  }
  return largest < 0x1p-14f ? 0 : std::ilogb(largest);
}

}  // namespace

void pack_f16_reference_half_query(const PackQueryArgs& args) noexcept {
  F16* const dst = static_cast<F16*>(args.dst);
  for (std::int64_t n = 0; n < args.nr; ++n) {
    args.range[n] = 1.0f;
    if (n >= args.rows_used) {
      for (std::int64_t d = 0; d < args.dim; ++d) dst[d * args.nr + n] = {};
      continue;
    }
    const F16* const row = static_cast<const F16*>(args.rows[n]);
    const HalfRange range = half_query_range(magnitudes_of(row, args.dim), args.scale);
    args.range[n] = range.score;
    for (std::int64_t d = 0; d < args.dim; ++d)
      round_to(dst + d * args.nr + n, to_float(row[d]) * range.element);
  }
}

void pack_f16_reference_half_key(const PackKeyArgs& args) noexcept {
  const F16* const src = static_cast<const F16*>(args.src);
  F16* const dst = static_cast<F16*>(args.dst);
  for (std::int64_t panel = 0; panel * kHalfReferenceMr < args.rows; ++panel) {
    for (std::int64_t m = 0; m < kHalfReferenceMr; ++m) {
      const std::int64_t j = panel * kHalfReferenceMr + m;
      const F16* const row = src + j * args.stride;
      const int exponent = j < args.rows ? exponent_of(row, args.dim) : 0;
      args.range[j] = std::ldexp(1.0f, exponent);
      for (std::int64_t d = 0; d < args.dim; ++d)
        round_to(dst + (panel * args.dim + d) * kHalfReferenceMr + m,
                 j < args.rows ? std::ldexp(to_float(row[d]), -exponent) : 0.0f);
    }
  }
}

bool pack_f16_reference_half_value(const PackValueArgs& args) noexcept {
  const F16* const src = static_cast<const F16*>(args.src);
  bool within = true;
  for (std::int64_t panel = 0; panel * kHalfReferenceMr < args.dim; ++panel) {
    for (std::int64_t j = 0; j < args.rows; ++j) {
      for (std::int64_t m = 0; m < kHalfReferenceMr; ++m) {
        const std::int64_t d = panel * kHalfReferenceMr + m;
        const F16 x = d < args.dim ? src[j * args.stride + d] : F16{};
        within = within && std::fabs(to_float(x)) <= kHalfValueLimit;
        if (args.dst) static_cast<F16*>(args.dst)[(panel * args.rows + j) * kHalfReferenceMr + m] = x;
      }
    }
  }
  return within;
}

}  // namespace kumiko::kernels
