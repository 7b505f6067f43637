// SPDX-License-Identifier: Apache-2.0
// Linear layers with oneDNN, with weights packed once for its kernels.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace inference {

/// The last step of a linear layer.
enum class Epilogue {
  kNone,  ///< y = t
  kGelu,  ///< y = gelu(t), gelu(t) = t/2 (1 + erf(t / sqrt 2))
  kAdd,   ///< y += t
};

/// The linear layers of one shape, t = x W^T + bias, one per transformer layer. They share their kernels.
///
/// The product runs as a 1x1 convolution over the rows, the only primitive of oneDNN 2.6 that keeps packed
/// weights with AVX2 too. Its matrix product packs them in every call there, 42 MB for one text: 14 rows
/// through the 24 products of all-MiniLM-L6-v2 take 5.3 ms with it and 4.7 ms with the convolution on a Zen 5
/// core; with AVX-512 both take 3.2 ms. Every row is summed in one order, with AVX-512 and AVX2, so that a
/// text's vector has the same bits in any batch.
class LinearLayers {
 public:
  /// Rows multiplied by one call of a kernel. More rows are cut into parts of similar size, because a kernel
  /// is compiled for each number of rows. With 48, 416 rows take 2 % longer than with a kernel of their own.
  static constexpr std::int64_t kMaxRows = 48;

  /// Cuts `rows` into as few parts as kMaxRows allows: visit(first row, rows of the part).
  template <class Visit>
  static void for_each_part(std::int64_t rows, Visit visit) {
    const std::int64_t parts = (rows + kMaxRows - 1) / kMaxRows;
    for (std::int64_t part = 0; part < parts; ++part) {
      const std::int64_t first = rows * part / parts;
      visit(first, rows * (part + 1) / parts - first);
    }
  }

  /// Compiles the kernels and allocates memory for the weights of `count` layers. Throws std::runtime_error
  /// with oneDNN's message.
  LinearLayers(std::int64_t in, std::int64_t out, Epilogue epilogue, std::int64_t count);
  ~LinearLayers();
  LinearLayers(LinearLayers&&) noexcept;
  LinearLayers& operator=(LinearLayers&&) noexcept;

  /// Packs a copy of weight [out, in] and bias [out], both f32 row-major, as the next layer. Throws
  /// std::length_error after `count` of them.
  void add(const float* weight, const float* bias);

  /// y[rows, out] from x[rows, in], f32 row-major, through layer `index`. Runs on the calling thread alone;
  /// any number of threads may call at once. Throws std::out_of_range if there is no such layer.
  void run(std::size_t index, std::int64_t rows, const float* x, float* y) const;

  /// Name of oneDNN's kernels: "brgconv_1x1:avx512_core", "jit_1x1:avx2", ...
  const std::string& kernels() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace inference
