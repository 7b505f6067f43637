// SPDX-License-Identifier: Apache-2.0
// A call of attention_backward with its data, and the check of its answer.
#pragma once

#include <kumiko/attention_backward.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace kumiko::bench {

struct GradientShape {
  const char* name;
  std::int64_t q_heads, kv_heads, len, dim;
  bool is_causal;
  DataType type;
};
std::span<const GradientShape> gradient_shapes();

/// Elements of f32 or bf16, read and written as floats.
class Elements {
 public:
  Elements(std::int64_t count, DataType type);
  void* data() { return bytes_.data(); }
  double operator[](std::int64_t i) const;
  void set(std::int64_t i, float value);
  void fill(std::uint64_t seed, std::int64_t count);
  void poison();

 private:
  DataType type_;
  std::vector<std::byte> bytes_;
};

class GradientProblem {
 public:
  explicit GradientProblem(const GradientShape& shape);

  const GradientShape& shape() const { return shape_; }
  /// FLOP of the five products.
  double flops() const;
  /// Writes `out` and `lse`, which the gradients and their check need.
  Status forward(const Context& context) { return attention_forward(context, args.forward); }
  /// Sets the gradients to NaN.
  void poison();
  /// Compares some rows of each gradient, those next to borders of blocks among them, with the definition in
  /// double on the forward call's results. "" or a sentence. P and dS may be rounded to the tensors'
  /// type before the last products (`rounds_weights`).
  std::string check(bool rounds_weights = false);

  BackwardArgs args;

 private:
  using Row = std::vector<double>;
  struct Pair {
    double p, ds, size;  // size: the sum of the magnitudes of the two terms whose difference ds is
  };
  std::int64_t group() const { return shape_.q_heads / shape_.kv_heads; }
  std::int64_t at(std::int64_t head, std::int64_t position) const {
    return (head * shape_.len + position) * shape_.dim;
  }
  double dot(const Elements& a, std::int64_t i, const Elements& b, std::int64_t j) const;
  Pair pair(std::int64_t head, std::int64_t i, std::int64_t j) const;
  std::string compare(const char* name, const Elements& got, std::int64_t from, const Row& want,
                      const Row& squares) const;
  void add(Row* sum, Row* squares, double weight, double size, const Elements& row, std::int64_t from) const;
  Row zeros() const { return Row(static_cast<std::size_t>(shape_.dim)); }
  std::string check_query(std::int64_t head, std::int64_t i) const;
  std::string check_key(std::int64_t kv_head, std::int64_t j) const;

  const GradientShape shape_;
  const std::int64_t q_size_, k_size_;
  double of_sum_ = 0;  // bound of an error, relative to the root of the sum of the terms' squares
  Elements q_, k_, v_, out_, dout_, dq_, dk_, dv_;
  std::vector<float> lse_;
};

}  // namespace kumiko::bench
