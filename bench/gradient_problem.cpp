// SPDX-License-Identifier: Apache-2.0
#include "bench/gradient_problem.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace kumiko::bench {
namespace {

constexpr GradientShape kShapes[] = {
    {"backward_dense_d128_h8x8_1024", 8, 8, 1024, 128, false, DataType::f32},
    {"backward_dense_d128_h8x8_4096", 8, 8, 4096, 128, false, DataType::f32},
    {"backward_causal_d128_h8x8_4096", 8, 8, 4096, 128, true, DataType::f32},
    {"backward_causal_d128_h32x8_1024", 32, 8, 1024, 128, true, DataType::f32},
    {"backward_dense_d64_h8x8_1024", 8, 8, 1024, 64, false, DataType::f32},
    {"backward_dense_d256_h8x8_1024", 8, 8, 1024, 256, false, DataType::f32},
    {"backward_dense_d128_h8x8_1024_bf16", 8, 8, 1024, 128, false, DataType::bf16},
    {"backward_dense_d128_h8x8_4096_bf16", 8, 8, 4096, 128, false, DataType::bf16},
    {"backward_dense_d64_h8x8_1024_bf16", 8, 8, 1024, 64, false, DataType::bf16},
    {"backward_dense_d256_h8x8_1024_bf16", 8, 8, 1024, 256, false, DataType::bf16},
    {"backward_causal_d128_h8x8_4096_bf16", 8, 8, 4096, 128, true, DataType::bf16},
};

}  // namespace

std::span<const GradientShape> gradient_shapes() {
  return kShapes;
}

Elements::Elements(std::int64_t count, DataType type)
    : type_(type), bytes_(static_cast<std::size_t>(count * (type == DataType::f32 ? 4 : 2))) {}

double Elements::operator[](std::int64_t i) const {
  std::uint32_t bits = 0;
  if (type_ == DataType::f32)
    std::memcpy(&bits, bytes_.data() + 4 * i, 4);
  else
    std::memcpy(reinterpret_cast<std::byte*>(&bits) + 2, bytes_.data() + 2 * i, 2);
  float value = 0;
  std::memcpy(&value, &bits, 4);
  return static_cast<double>(value);
}

void Elements::set(std::int64_t i, float value) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, 4);
  if (type_ == DataType::f32)
    std::memcpy(bytes_.data() + 4 * i, &bits, 4);
  else
    std::memcpy(bytes_.data() + 2 * i, reinterpret_cast<std::byte*>(&bits) + 2, 2);
}

void Elements::fill(std::uint64_t seed, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    set(i, (static_cast<float>(seed >> 40) * 0x1p-24f - 0.5f) * 3.0f);
  }
}

void Elements::poison() {
  std::memset(bytes_.data(), 0xff, bytes_.size());
}

GradientProblem::GradientProblem(const GradientShape& shape)
    : shape_(shape),
      q_size_(shape.q_heads * shape.len * shape.dim),
      k_size_(shape.kv_heads * shape.len * shape.dim),
      q_(q_size_, shape.type),
      k_(k_size_, shape.type),
      v_(k_size_, shape.type),
      out_(q_size_, shape.type),
      dout_(q_size_, shape.type),
      dq_(q_size_, shape.type),
      dk_(k_size_, shape.type),
      dv_(k_size_, shape.type),
      lse_(static_cast<std::size_t>(shape.q_heads * shape.len)) {
  q_.fill(1, q_size_), k_.fill(2, k_size_), v_.fill(3, k_size_), dout_.fill(4, q_size_);
  const auto of_queries = [&](auto view, Elements& of) {
    return decltype(view)::bhsd(of.data(), 1, shape_.q_heads, shape_.len, shape_.dim, shape_.type);
  };
  const auto of_keys = [&](auto view, Elements& of) {
    return decltype(view)::bhsd(of.data(), 1, shape_.kv_heads, shape_.len, shape_.dim, shape_.type);
  };
  args.forward.q = of_queries(ConstTensor(), q_);
  args.forward.k = of_keys(ConstTensor(), k_), args.forward.v = of_keys(ConstTensor(), v_);
  args.forward.out = of_queries(Tensor(), out_), args.forward.lse.data = lse_.data();
  args.forward.is_causal = shape.is_causal;
  args.dout = of_queries(ConstTensor(), dout_);
  args.dq = of_queries(Tensor(), dq_), args.dk = of_keys(Tensor(), dk_), args.dv = of_keys(Tensor(), dv_);
}

double GradientProblem::flops() const {
  const auto len = static_cast<double>(shape_.len);
  return 10.0 * static_cast<double>(shape_.q_heads * shape_.dim) *
         (shape_.is_causal ? len * (len + 1) / 2 : len * len);
}

void GradientProblem::poison() {
  dq_.poison(), dk_.poison(), dv_.poison();
}

std::string GradientProblem::check(bool rounds_weights) {
  // f32: errors of rounded sums. Weights rounded to bf16, each right to 2^-8: three times the root of the sum
  // of squares, as in answers.cpp.
  of_sum_ = rounds_weights && shape_.type != DataType::f32 ? 3 * 0x1p-8 : 1e-5;
  for (const std::int64_t position : {std::int64_t{0}, std::int64_t{1}, std::int64_t{191}, std::int64_t{192},
                                      std::int64_t{575}, std::int64_t{576}, shape_.len - 1}) {
    if (position >= shape_.len) continue;
    for (std::int64_t head = 0; head < shape_.kv_heads;
         head += std::max<std::int64_t>(shape_.kv_heads - 1, 1)) {
      if (std::string fault = check_key(head, position); !fault.empty()) return fault;
      if (std::string fault = check_query(head * group() + group() - 1, position); !fault.empty())
        return fault;
    }
  }
  return {};
}

double GradientProblem::dot(const Elements& a, std::int64_t i, const Elements& b, std::int64_t j) const {
  double sum = 0;
  for (std::int64_t d = 0; d < shape_.dim; ++d) sum += a[i + d] * b[j + d];
  return sum;
}

GradientProblem::Pair GradientProblem::pair(std::int64_t head, std::int64_t i, std::int64_t j) const {
  const std::int64_t of_q = at(head, i), of_k = at(head / group(), j);
  const double scale = 1 / std::sqrt(static_cast<double>(shape_.dim)),
               p = std::exp(dot(q_, of_q, k_, of_k) * scale -
                            static_cast<double>(lse_[static_cast<std::size_t>(head * shape_.len + i)]));
  const double dp = dot(dout_, of_q, v_, of_k), delta = dot(dout_, of_q, out_, of_q);
  return {p, p * (dp - delta) * scale, p * (std::abs(dp) + std::abs(delta)) * scale};
}

std::string GradientProblem::compare(const char* name, const Elements& got, std::int64_t from,
                                     const Row& want, const Row& squares) const {
  const double of_result = shape_.type == DataType::f32 ? 1e-6 : 0x1p-8;  // the rounding of the result
  for (std::size_t d = 0; d < want.size(); ++d) {
    const double have = got[from + static_cast<std::int64_t>(d)];
    if (!(std::abs(have - want[d]) <= of_sum_ * std::sqrt(squares[d]) + of_result * std::abs(want[d])))
      return std::string(name) + "[" + std::to_string(from) + " + " + std::to_string(d) + "] is " +
             std::to_string(have) + ", expected " + std::to_string(want[d]);
  }
  return {};
}

void GradientProblem::add(Row* sum, Row* squares, double weight, double size, const Elements& row,
                          std::int64_t from) const {
  for (std::size_t d = 0; d < sum->size(); ++d) {
    const double x = row[from + static_cast<std::int64_t>(d)];
    (*sum)[d] += weight * x, (*squares)[d] += size * x * size * x;
  }
}

std::string GradientProblem::check_query(std::int64_t head, std::int64_t i) const {
  Row want = zeros(), squares = zeros();
  for (std::int64_t j = 0; j < (shape_.is_causal ? i + 1 : shape_.len); ++j) {
    const Pair both = pair(head, i, j);
    add(&want, &squares, both.ds, both.size, k_, at(head / group(), j));
  }
  return compare("dq", dq_, at(head, i), want, squares);
}

std::string GradientProblem::check_key(std::int64_t kv_head, std::int64_t j) const {
  Row of_k = zeros(), k_squares = zeros(), of_v = zeros(), v_squares = zeros();
  for (std::int64_t head = kv_head * group(); head < (kv_head + 1) * group(); ++head) {
    for (std::int64_t i = shape_.is_causal ? j : 0; i < shape_.len; ++i) {
      const Pair both = pair(head, i, j);
      add(&of_k, &k_squares, both.ds, both.size, q_, at(head, i));
      add(&of_v, &v_squares, both.p, both.p, dout_, at(head, i));
    }
  }
  const std::string fault = compare("dk", dk_, at(kv_head, j), of_k, k_squares);
  return fault.empty() ? compare("dv", dv_, at(kv_head, j), of_v, v_squares) : fault;
}

}  // namespace kumiko::bench
