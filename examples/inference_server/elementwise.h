// SPDX-License-Identifier: Apache-2.0
// The operations of the encoder and the search besides matrix products and attention. Every row is computed
// by itself, always in the same order.
#pragma once

#include <cstdint>

namespace inference {

/// x[r] = LayerNorm(x[r]) * gain + shift, rows of `width` f32. The variance is taken around the mean (two
/// passes), biased, as in Ba et al., "Layer Normalization", 2016.
void layer_norm(std::int64_t rows, std::int64_t width, float* x, const float* gain, const float* shift,
                float epsilon);

/// y[i] = a[i] + b[i] + c[i].
void add_three(std::int64_t width, const float* a, const float* b, const float* c, float* y);

/// out = mean of the rows, divided by its Euclidean norm.
void mean_pool_normalize(std::int64_t rows, std::int64_t width, const float* x, float* out);

/// scores[r] = dot(matrix row r, x): matrix is [rows, width] row-major.
void dot_rows(std::int64_t rows, std::int64_t width, const float* matrix, const float* x, float* scores);

}  // namespace inference
