// The parts of a BERT layer between the matrix products. Every row is computed on its own, in one order.
#pragma once

#include <cstdint>

namespace inference {

/// x[r] = LayerNorm(x[r] + y[r] + bias) * gain + shift, rows of `width` f32. `y` and `bias` may be null. The
/// variance is taken around the mean (two passes), biased, as in Ba et al., "Layer Normalization", 2016.
void add_layer_norm(std::int64_t rows, std::int64_t width, float* x, const float* y, const float* bias,
                    const float* gain, const float* shift, float epsilon);

/// x = gelu(x + bias), gelu(t) = t/2 (1 + erf(t / sqrt 2)). Error of gelu: at most 1.1e-6 absolute.
void add_gelu(std::int64_t rows, std::int64_t width, float* x, const float* bias);

/// y[i] = x[i] + bias[i].
void add_bias(std::int64_t width, const float* x, const float* bias, float* y);

/// out = mean of the rows, divided by its Euclidean norm.
void mean_pool_normalize(std::int64_t rows, std::int64_t width, const float* x, float* out);

}  // namespace inference
