// SPDX-License-Identifier: Apache-2.0
// Quantizes rows to int8, with one scale for each row.
#pragma once

#include <cstdint>

#include "kernels/element.h"

namespace kumiko::kernels {

/// A row whose largest magnitude is smaller becomes 0: 127 / that magnitude might not be finite.
inline constexpr float kLeastInt8Row = 0x1p-118f;

/// a = the largest |x_d|; *scale = round(a / 127); out_d = round(x_d * round(127 / a)), ties to even, which
/// is at most 127. The row is all 0 with a scale of 0 if a is below kLeastInt8Row, and all 0 with a scale of
/// the canonical NaN if an element is not finite.
void quantize_row(Element element, const void* x, std::int64_t dim, std::int8_t* out, float* scale) noexcept;

}  // namespace kumiko::kernels
