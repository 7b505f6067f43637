// SPDX-License-Identifier: Apache-2.0
#include "examples/train_tiny/layers.h"

#include <dnnl.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <stdexcept>

namespace train_tiny {
namespace {

/// body(first, last) for pieces of at most `piece`, on OpenMP's threads. An exception must not leave a
/// thread: one of them is thrown again here.
template <class Body>
void in_pieces(std::int64_t count, std::int64_t piece, Body body) {
  const std::int64_t pieces = (count + piece - 1) / piece;
  std::exception_ptr problem;
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < pieces; ++i) {
    try {
      body(i * piece, std::min(count, (i + 1) * piece));
    } catch (...) {
#pragma omp critical
      problem = std::current_exception();
    }
  }
  if (problem) std::rethrow_exception(problem);
}

/// C [m][n] = op(A) op(B), row-major. Inside a piece, so that oneDNN takes no threads of its own.
void multiply(char a_as, char b_as, std::int64_t m, std::int64_t n, std::int64_t k, const float* a,
              std::int64_t a_stride, const float* b, std::int64_t b_stride, float* c, std::int64_t c_stride) {
  if (dnnl_sgemm(a_as, b_as, m, n, k, 1.0f, a, a_stride, b, b_stride, 0.0f, c, c_stride) != dnnl_success)
    throw std::runtime_error("oneDNN's product failed");
}

}  // namespace

Parameter::Parameter(std::int64_t size, float filled)
    : value(static_cast<std::size_t>(size), filled),
      gradient(value.size()),
      mean(value.size()),
      square(value.size()) {}

Parameter::Parameter(std::int64_t size, float deviation, std::mt19937_64& random) : Parameter(size) {
  std::normal_distribution<float> normal(0.0f, deviation);
  for (float& x : value) x = normal(random);
}

Linear::Linear(std::int64_t in, std::int64_t out, float deviation, std::mt19937_64& random)
    : weight(in * out, deviation, random), in_(in), out_(out) {}

void Linear::forward(const Floats& x, std::int64_t rows, Floats* y) const {
  in_pieces(rows, kRows, [&](std::int64_t first, std::int64_t last) {
    multiply('N', 'N', last - first, out_, in_, &x[static_cast<std::size_t>(first * in_)], in_,
             weight.value.data(), out_, &(*y)[static_cast<std::size_t>(first * out_)], out_);
  });
}

void Linear::backward(const Floats& x, const Floats& dy, std::int64_t rows, Floats* dx) {
  in_pieces(in_, kRows / 2, [&](std::int64_t first, std::int64_t last) {
    multiply('T', 'N', last - first, out_, rows, &x[static_cast<std::size_t>(first)], in_, dy.data(), out_,
             &weight.gradient[static_cast<std::size_t>(first * out_)], out_);
  });
  if (dx == nullptr) return;
  in_pieces(rows, kRows, [&](std::int64_t first, std::int64_t last) {
    multiply('N', 'T', last - first, in_, out_, &dy[static_cast<std::size_t>(first * out_)], out_,
             weight.value.data(), out_, &(*dx)[static_cast<std::size_t>(first * in_)], in_);
  });
}

void RmsNorm::forward(const Floats& x, std::int64_t rows, Floats* y) const {
  in_pieces(rows, kRows, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t row = first; row < last; ++row) {
      const float* from = &x[static_cast<std::size_t>(row * width_)];
      float sum = 0.0f;
      for (std::int64_t i = 0; i < width_; ++i) sum += from[i] * from[i];
      const float factor = 1.0f / std::sqrt(sum / static_cast<float>(width_) + 1e-5f);
      float* to = &(*y)[static_cast<std::size_t>(row * width_)];
      for (std::int64_t i = 0; i < width_; ++i)
        to[i] = from[i] * factor * gain.value[static_cast<std::size_t>(i)];
    }
  });
}

void RmsNorm::backward(const Floats& x, const Floats& dy, std::int64_t rows, Floats* dx) {
  const std::int64_t pieces = (rows + kRows - 1) / kRows;
  Floats parts(static_cast<std::size_t>(pieces * width_));  // of the gain's gradient
  in_pieces(rows, kRows, [&](std::int64_t first, std::int64_t last) {
    float* part = &parts[static_cast<std::size_t>(first / kRows * width_)];
    for (std::int64_t row = first; row < last; ++row) {
      const auto at = static_cast<std::size_t>(row * width_);
      float sum = 0.0f, product = 0.0f;
      for (std::size_t i = 0; i < static_cast<std::size_t>(width_); ++i) {
        sum += x[at + i] * x[at + i];
        product += gain.value[i] * dy[at + i] * x[at + i];
      }
      const float factor = 1.0f / std::sqrt(sum / static_cast<float>(width_) + 1e-5f),
                  inner = product * factor * factor / static_cast<float>(width_);
      for (std::size_t i = 0; i < static_cast<std::size_t>(width_); ++i) {
        part[i] += dy[at + i] * x[at + i] * factor;
        (*dx)[at + i] += factor * (gain.value[i] * dy[at + i] - x[at + i] * inner);
      }
    }
  });
  std::fill(gain.gradient.begin(), gain.gradient.end(), 0.0f);
  for (std::size_t i = 0; i < parts.size(); ++i)
    gain.gradient[i % static_cast<std::size_t>(width_)] += parts[i];
}

void silu(const Floats& x, Floats* y) {
  in_pieces(std::ssize(x), 16384, [&](std::int64_t first, std::int64_t last) {
    for (auto i = static_cast<std::size_t>(first); i < static_cast<std::size_t>(last); ++i)
      (*y)[i] = x[i] / (1.0f + std::exp(-x[i]));
  });
}

void silu_backward(const Floats& x, const Floats& dy, Floats* dx) {
  in_pieces(std::ssize(x), 16384, [&](std::int64_t first, std::int64_t last) {
    for (auto i = static_cast<std::size_t>(first); i < static_cast<std::size_t>(last); ++i) {
      const float sigmoid = 1.0f / (1.0f + std::exp(-x[i]));
      (*dx)[i] = dy[i] * sigmoid * (1.0f + x[i] * (1.0f - sigmoid));
    }
  });
}

void add(const Floats& y, Floats* x) {
  for (std::size_t i = 0; i < x->size(); ++i) (*x)[i] += y[i];
}

double cross_entropy(const Floats& logits, const std::vector<std::uint8_t>& targets, std::int64_t classes,
                     Floats* dlogits) {
  const auto rows = std::ssize(targets);
  std::vector<double> losses(targets.size());
  in_pieces(rows, kRows, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t row = first; row < last; ++row) {
      const float* from = &logits[static_cast<std::size_t>(row * classes)];
      float* to = &(*dlogits)[static_cast<std::size_t>(row * classes)];
      const float top = *std::max_element(from, from + classes);
      double sum = 0.0;
      for (std::int64_t i = 0; i < classes; ++i) sum += to[i] = std::exp(from[i] - top);
      const auto target = targets[static_cast<std::size_t>(row)];
      losses[static_cast<std::size_t>(row)] = std::log(sum) + top - from[target];
      const auto scale = static_cast<float>(1.0 / (sum * static_cast<double>(rows)));
      for (std::int64_t i = 0; i < classes; ++i) to[i] *= scale;
      to[target] -= 1.0f / static_cast<float>(rows);
    }
  });
  double sum = 0.0;
  for (const double loss : losses) sum += loss;
  return sum / static_cast<double>(rows);
}

}  // namespace train_tiny
