// SPDX-License-Identifier: Apache-2.0
// The right answer of a problem, for every row, in fp64, and how far a correct implementation may be from it.
//
// A problem has kKinds different key vectors, so a row has kKinds different weights, and its output is a
// weighted sum with one sum of values per kind. The sums are kept from row to row, and only the keys in which
// the next row differs are added or subtracted: 32768 rows over 4096 keys take tenths of a second, where the
// definition takes minutes. defined_row() is the definition; answers_test.cpp compares the two.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <mutex>
#include <thread>

#include "bench/machine_peak.h"
#include "bench/problem.h"

namespace kumiko::bench {
namespace {

struct Precision {
  int bits;  // Of the fraction, with the leading one.
  int least_exponent;
  double weight;  // Relative error that a softmax weight may have.
};
// Weights of 16-bit types may be rounded to the type before they multiply the values: half a unit in the last
// place of a number at the lower end of its binade. Weights of f32 may come from one of the fast exponentials
// of other libraries, with errors of 2e-5 (ours err by 1e-7), and include the rounding of scores and long
// sums.
Precision precision(DataType type) {
  if (type == DataType::f32) return {24, -126, 0x1p-14};
  return type == DataType::bf16 ? Precision{8, -126, 0x1p-8} : Precision{11, -14, 0x1p-11};
}

// Errors of independent weights add up as the root of the sum of squares. Rounding has a standard deviation
// of 0.3 to 0.6 of its bound, so this allows 5 to 10 standard deviations: none of 4 million right elements
// may fail.
constexpr double kDeviations = 3;

// Sums over the visible keys of one row, by kind.
class Sums {
 public:
  explicit Sums(std::int64_t dim)
      : dim_(dim), values(static_cast<std::size_t>(kKinds * dim)), squares(values.size()) {}
  void clear() {
    std::fill(values.begin(), values.end(), 0.0);
    std::fill(squares.begin(), squares.end(), 0.0);
    std::fill(count, count + kKinds, 0);
  }
  void add(std::int64_t kind, const float* value, int sign) {
    count[kind] += sign;
    double *const sum = &values[static_cast<std::size_t>(kind * dim_)],
                  *const square = &squares[static_cast<std::size_t>(kind * dim_)];
    for (std::int64_t d = 0; d < dim_; ++d) {
      const double x = value[d];
      sum[d] += sign * x;
      square[d] += sign * x * x;
    }
  }

 private:
  std::int64_t dim_;

 public:
  std::vector<double> values, squares;  // [kind][dim]
  std::int64_t count[kKinds] = {};
};

}  // namespace

double half_ulp(DataType type, double x) {
  const Precision p = precision(type);
  const int exponent = x == 0 ? p.least_exponent : std::max(std::ilogb(x), p.least_exponent);
  return std::ldexp(1.0, exponent - p.bits);
}

void Problem::answer_head(int set, const Fault& fault, std::int64_t b, std::int64_t kv_head,
                          const std::function<bool(const Row&)>& visit) const {
  const Shape& s = shape_;
  if (s.latent) return answer_latents(set, fault, b, kv_head, visit);
  const std::int64_t bytes = bytes_of(s.type), group = s.q_heads / s.kv_heads, dim = s.v_head_dim;
  const Precision precise = precision(s.type);
  const double scale = fault.scale / std::sqrt(static_cast<double>(s.head_dim));
  Sums sums(dim);
  std::vector<float> widened(static_cast<std::size_t>(dim));
  const auto add = [&](std::int64_t key, int sign) {
    if (fault.kv_head == kv_head && fault.dropped_key == key) return;
    const std::byte* const row = values(set) + value_at(b, kv_head, key) * bytes;
    const float* value = reinterpret_cast<const float*>(row);
    if (s.type != DataType::f32) {
      for (std::size_t d = 0; d < widened.size(); ++d)
        widened[d] = load_widened(s.type, row + static_cast<std::int64_t>(d) * bytes);
      value = widened.data();
    }
    sums.add(kinds_[kind_at(set, b, kv_head, key)], value, sign);
  };
  std::vector<double> want(static_cast<std::size_t>(dim)), spread(want.size()), tolerance(want.size()),
      q(static_cast<std::size_t>(s.head_dim));
  std::int64_t first = 0, end = 0;  // The keys in sums.
  for (std::int64_t i = 0; i < q_len(b); ++i) {
    if (!mask_.empty()) {
      if (i % s.mask_block == 0 || s.is_causal || s.window_left >= 0) {
        sums.clear();
        for (std::int64_t j = 0; j < s.kv_len; ++j) {
          if (sees(b, i, j)) add(j, 1);
        }
      }
    } else {
      const Range seen = range(b, i);
      for (; end < seen.end; ++end) add(end, 1);
      for (; first < seen.first; ++first) add(first, -1);
    }
    for (std::int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
      const std::byte* row = q_.data() + row_at(b, h, i, s.head_dim) * bytes;
      for (std::int64_t d = 0; d < s.head_dim; ++d)
        q[static_cast<std::size_t>(d)] = load_widened(s.type, row + d * bytes);
      double weight[kKinds], highest = -std::numeric_limits<double>::infinity(), sum = 0;
      double dot[kKinds] = {};
      for (std::int64_t d = 0; d < s.head_dim; ++d) {  // 16 sums at a time
        for (std::int64_t c = 0; c < kKinds; ++c)
          dot[c] += q[static_cast<std::size_t>(d)] * kind_keys_[static_cast<std::size_t>(c * s.head_dim + d)];
      }
      for (std::int64_t c = 0; c < kKinds; ++c) {
        weight[c] = dot[c] * scale;
        if (sums.count[c] > 0) highest = std::max(highest, weight[c]);
      }
      for (std::int64_t c = 0; c < kKinds; ++c) {
        weight[c] = sums.count[c] > 0 ? std::exp(weight[c] - highest) : 0;
        sum += static_cast<double>(sums.count[c]) * weight[c];
        if (fault.rounds_weights) {
          std::byte rounded[4];
          store_rounded(s.type, static_cast<float>(weight[c]), rounded);
          weight[c] = load_widened(s.type, rounded);
        }
      }
      std::fill(want.begin(), want.end(), 0.0);
      std::fill(spread.begin(), spread.end(), 0.0);
      for (std::int64_t c = 0; c < kKinds; ++c) {
        if (sums.count[c] == 0) continue;
        const double w = weight[c] / sum;
        const double *const v = &sums.values[static_cast<std::size_t>(c * dim)],
                            *const squares = &sums.squares[static_cast<std::size_t>(c * dim)];
        for (std::size_t d = 0; d < want.size(); ++d) {
          const double part = w * v[d];
          want[d] += part;
          // Keys of a kind have the same weight, which may be rounded alike in all or differently in each.
          spread[d] += part * part + w * w * std::max(0.0, squares[d]);
        }
      }
      for (std::size_t d = 0; d < want.size(); ++d)
        tolerance[d] = half_ulp(s.type, want[d]) + kDeviations * precise.weight * std::sqrt(spread[d]);
      if (!visit({b, h, i, want, tolerance})) return;
    }
  }
}

// By the definition, because every key has a weight of its own; with the same tolerance as above.
void Problem::answer_latents(int set, const Fault& fault, std::int64_t b, std::int64_t kv_head,
                             const std::function<bool(const Row&)>& visit) const {
  const Shape& s = shape_;
  const std::int64_t bytes = bytes_of(s.type), group = s.q_heads / s.kv_heads, dim = s.head_dim;
  const auto v_dim = static_cast<std::size_t>(s.v_head_dim);
  const double scale = fault.scale / std::sqrt(static_cast<double>(dim));
  const Range seen = range(b, 0);
  std::vector<double> latent, q(static_cast<std::size_t>(dim)), want(v_dim), spread(v_dim), tolerance(v_dim);
  for (std::int64_t j = seen.first; j < seen.end; ++j) {
    if (fault.kv_head == kv_head && fault.dropped_key == j) continue;
    for (std::int64_t d = 0; d < dim; ++d)
      latent.push_back(load_widened(s.type, keys(set) + (key_at(b, kv_head, j, dim) + d) * bytes));
  }
  const std::size_t count = latent.size() / q.size();
  std::vector<double> weight(count);
  for (std::int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
    const std::byte* row = q_.data() + row_at(b, h, 0, dim) * bytes;
    for (std::size_t d = 0; d < q.size(); ++d)
      q[d] = load_widened(s.type, row + static_cast<std::int64_t>(d) * bytes);
    for (std::size_t j = 0; j < count; ++j) {
      double dot = 0;
      for (std::size_t d = 0; d < q.size(); ++d) dot += q[d] * latent[j * q.size() + d];
      weight[j] = dot * scale;
    }
    const double highest = *std::max_element(weight.begin(), weight.end());
    double sum = 0;
    std::fill(want.begin(), want.end(), 0.0);
    std::fill(spread.begin(), spread.end(), 0.0);
    for (std::size_t j = 0; j < count; ++j) {
      double w = std::exp(weight[j] - highest);
      sum += w;
      if (fault.rounds_weights) {
        std::byte rounded[4];
        store_rounded(s.type, static_cast<float>(w), rounded);
        w = load_widened(s.type, rounded);
      }
      for (std::size_t d = 0; d < v_dim; ++d) {
        const double part = w * latent[j * q.size() + d];
        want[d] += part;
        spread[d] += part * part;
      }
    }
    for (std::size_t d = 0; d < v_dim; ++d) {
      want[d] /= sum;
      tolerance[d] =
          half_ulp(s.type, want[d]) + kDeviations * precision(s.type).weight * std::sqrt(spread[d]) / sum;
    }
    if (!visit({b, h, 0, want, tolerance})) return;
  }
}

void Problem::answer(int set, const Fault& fault, const std::function<bool(const Row&)>& visit) const {
  const std::int64_t heads = shape_.batch * shape_.kv_heads;
  std::atomic<std::int64_t> next{0};
  const auto work = [&] {
    for (std::int64_t head; (head = next.fetch_add(1)) < heads;)
      answer_head(set, fault, head / shape_.kv_heads, head % shape_.kv_heads, visit);
  };
  std::vector<std::thread> threads(allowed_cores().size() - 1);
  for (std::thread& thread : threads) thread = std::thread(work);
  work();
  for (std::thread& thread : threads) thread.join();
}

std::string Problem::check(int set) const {
  std::mutex mutex;
  std::atomic<bool> found{false};
  std::string message;
  answer(set, {}, [&](const Row& row) {
    if (found) return false;
    const std::int64_t at = row_at(row.batch, row.head, row.row, shape_.v_head_dim);
    for (std::int64_t d = 0; d < shape_.v_head_dim; ++d) {
      const double want = row.want[static_cast<std::size_t>(d)];
      const float actual = load_widened(shape_.type, out_.data() + (at + d) * bytes_of(shape_.type));
      const double tolerance = row.tolerance[static_cast<std::size_t>(d)];
      if (std::abs(actual - want) <= tolerance) continue;  // False for NaN.
      const std::lock_guard lock(mutex);
      if (!found.exchange(true)) {
        message = "wrong answer: out[" + std::to_string(row.batch) + ", " + std::to_string(row.head) + ", " +
                  std::to_string(row.row) + ", " + std::to_string(d) + "] is " + std::to_string(actual) +
                  ", fp64 gives " + std::to_string(want) + " +- " + std::to_string(tolerance);
      }
      return false;
    }
    return true;
  });
  return message;
}

std::vector<double> Problem::defined_row(int set, std::int64_t b, std::int64_t h, std::int64_t i) const {
  const Shape& s = shape_;
  const std::int64_t dim = s.head_dim, v_dim = s.v_head_dim, kv_head = h / (s.q_heads / s.kv_heads);
  const auto element = [type = s.type](const std::byte* data, std::int64_t at) -> double {
    return load_widened(type, data + at * bytes_of(type));
  };
  std::vector<double> score(static_cast<std::size_t>(s.kv_len), -std::numeric_limits<double>::infinity());
  std::vector<double> row(static_cast<std::size_t>(v_dim), 0.0);
  for (std::int64_t j = 0; j < s.kv_len; ++j) {
    if (!sees(b, i, j)) continue;
    double dot = 0;
    for (std::int64_t d = 0; d < dim; ++d)
      dot +=
          element(q_.data(), row_at(b, h, i, dim) + d) * element(keys(set), key_at(b, kv_head, j, dim) + d);
    score[static_cast<std::size_t>(j)] = dot / std::sqrt(static_cast<double>(dim));
  }
  const double highest = *std::max_element(score.begin(), score.end());
  double sum = 0;
  for (std::int64_t j = 0; j < s.kv_len; ++j) {
    if (!sees(b, i, j)) continue;
    const double p = std::exp(score[static_cast<std::size_t>(j)] - highest);
    sum += p;
    for (std::int64_t d = 0; d < v_dim; ++d)
      row[static_cast<std::size_t>(d)] += p * element(values(set), value_at(b, kv_head, j) + d);
  }
  for (double& x : row) x = sum > 0 ? x / sum : 0;
  return row;
}

}  // namespace kumiko::bench
