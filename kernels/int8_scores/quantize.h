// SPDX-License-Identifier: Apache-2.0
// Rows to int8 with a scale each.
#pragma once

#include <cstdint>

#include "kernels/element.h"

namespace kumiko::kernels {

/// Below this, rows are 0: 127 / their largest magnitude might not be finite.
inline constexpr float kLeastInt8Row = 0x1p-118f;

/// a = the largest |x_d|; *scale = round(a / 127); out_d = round(x_d * round(127 / a)), ties to even, which
/// is at most 127. All 0 with a scale of 0 where a is below kLeastInt8Row, and of the canonical NaN where an
/// element is not finite.
void quantize_row(Element element, const void* x, std::int64_t dim, std::int8_t* out, float* scale) noexcept;

}  // namespace kumiko::kernels
