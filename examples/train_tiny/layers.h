// SPDX-License-Identifier: Apache-2.0
// The layers of a small transformer, forward and backward, on OpenMP's threads. Every sum has an order that
// does not depend on how many threads there are: rows are cut into pieces of kRows, and each piece, or each
// block of a weight's gradient, is the work of one thread.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

namespace train_tiny {

using Floats = std::vector<float>;

/// Rows of a piece of work.
inline constexpr std::int64_t kRows = 128;

/// What is learned, its gradient, and Adam's two moments.
struct Parameter {
  Floats value, gradient, mean, square;

  explicit Parameter(std::int64_t size, float filled = 0.0f);
  /// Normally distributed.
  Parameter(std::int64_t size, float deviation, std::mt19937_64& random);
};

/// y = x W, x [rows][in], W [in][out]. Products by oneDNN, one thread each.
class Linear {
 public:
  Linear(std::int64_t in, std::int64_t out, float deviation, std::mt19937_64& random);
  void forward(const Floats& x, std::int64_t rows, Floats* y) const;
  /// The weight's gradient, and dx unless it is null.
  void backward(const Floats& x, const Floats& dy, std::int64_t rows, Floats* dx);
  Parameter weight;

 private:
  std::int64_t in_, out_;
};

/// y = x / sqrt(mean(x^2) + 1e-5) * gain, row by row (Zhang and Sennrich, Root Mean Square Layer
/// Normalization).
class RmsNorm {
 public:
  explicit RmsNorm(std::int64_t width) : gain(width, 1.0f), width_(width) {}
  void forward(const Floats& x, std::int64_t rows, Floats* y) const;
  /// Adds to dx, which has the gradient that goes past this layer.
  void backward(const Floats& x, const Floats& dy, std::int64_t rows, Floats* dx);
  Parameter gain;

 private:
  std::int64_t width_;
};

/// y = x * sigmoid(x), and dx of dy.
void silu(const Floats& x, Floats* y);
void silu_backward(const Floats& x, const Floats& dy, Floats* dx);

/// x += y.
void add(const Floats& y, Floats* x);

/// The mean of -log softmax(logits)[target] over rows of `classes`, in double; *dlogits is its gradient.
double cross_entropy(const Floats& logits, const std::vector<std::uint8_t>& targets, std::int64_t classes,
                     Floats* dlogits);

}  // namespace train_tiny
