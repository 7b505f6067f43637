// SPDX-License-Identifier: Apache-2.0
// The queries and keys of a problem as int8.
#pragma once

#include <kumiko/attention.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "bench/problem.h"

namespace kumiko::bench {

/// For problems whose queries and keys fit in int8 (Shape::is_int8): calls on these have the same answer.
class Int8Operands {
 public:
  explicit Int8Operands(const Problem& problem)
      : problem_(problem), key_count_(count_of(problem.args(0).k)), keys_(memory_of(problem, key_count_)) {
    const AttentionArgs first = problem.args(0);
    convert(first.q, count_of(first.q), &queries_);
    for (int set = 0; set < problem.sets(); ++set) {
      std::vector<std::int8_t> keys;
      convert(problem.args(set).k, key_count_, &keys);
      for (std::size_t i = 0; i < keys.size(); ++i) at(set)[i] = static_cast<std::byte>(keys[i]);
    }
  }

  /// The call over the same keys, values and output.
  AttentionArgs args(AttentionArgs same) const {
    int set = 0;
    while (problem_.args(set).k.data != same.k.data) ++set;
    same.q.data = queries_.data(), same.k.data = at(set);
    same.q.dtype = same.k.dtype = DataType::i8;
    same.q_scale.data = same.k_scale.data = &kScale;
    same.precision = Precision::int8;
    return same;
  }

 private:
  static constexpr float kScale = kInt8Step;

  static std::size_t count_of(const ConstTensor& t) {
    return static_cast<std::size_t>(t.shape[0] * t.shape[1] * t.shape[2] * t.shape[3]);
  }
  static std::size_t memory_of(const Problem& problem, std::size_t count) {
    return static_cast<std::size_t>(problem.sets()) * count;
  }
  static void convert(const ConstTensor& from, std::size_t count, std::vector<std::int8_t>* to) {
    const auto* bytes = static_cast<const std::byte*>(from.data);
    for (std::size_t i = 0; i < count; ++i) {
      const float x = load_widened(from.dtype, bytes + i * static_cast<std::size_t>(bytes_of(from.dtype)));
      to->push_back(static_cast<std::int8_t>(std::lround(x / kScale)));
    }
  }
  std::byte* at(int set) const { return keys_.data() + static_cast<std::size_t>(set) * key_count_; }

  const Problem& problem_;
  std::size_t key_count_;
  Pages keys_;
  std::vector<std::int8_t> queries_;
};

}  // namespace kumiko::bench
