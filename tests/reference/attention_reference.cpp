// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/attention_reference.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "kernels/element.h"
#include "tests/support/numbers.h"
#include "tests/support/tensor.h"

namespace kumiko::test {

std::int64_t used_keys(const AttentionArgs& args, std::int64_t b) {
  return args.seqused_k != nullptr ? args.seqused_k[b] : args.k.shape[2];
}

bool sees(const AttentionArgs& args, std::int64_t b, std::int64_t i, std::int64_t j) {
  const std::int64_t used = used_keys(args, b);
  const std::int64_t p =
      args.causal_alignment == CausalAlignment::bottom_right ? i + used - args.q.shape[2] : i;
  if (j >= used) return false;
  const bool is_causal = args.causal_sequences != nullptr ? args.causal_sequences[b] != 0 : args.is_causal;
  const bool in_prefix = args.prefix_lens != nullptr && j < args.prefix_lens[b];
  if (is_causal && j > p && !in_prefix) return false;
  // Compare differences of small numbers: windows may be as large as int64 allows.
  const bool is_first = j < args.window_sink_tokens;
  if (args.window_left >= 0 && p - j > args.window_left && !is_first) return false;
  if (args.window_right >= 0 && j - p > args.window_right && !in_prefix && !is_first) return false;
  return true;
}

namespace {

bool tree_shows(const AttentionArgs& args, std::int64_t b, std::int64_t i, std::int64_t j) {
  const std::int64_t q_len = args.q.shape[2], t = j - (used_keys(args, b) - q_len);
  if (args.tree_mask == nullptr || t < 0) return true;
  const std::int64_t stride = args.tree_mask_stride > 0 ? args.tree_mask_stride : (q_len + 7) / 8;
  return (args.tree_mask[(b * q_len + i) * stride + t / 8] >> t % 8) % 2 == 1;
}

bool list_shows(const AttentionArgs& args, std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) {
  if (args.bsr_indptr == nullptr) return true;
  const std::int64_t blocks = (args.q.shape[2] + args.bsr_rows - 1) / args.bsr_rows;
  const std::int32_t* list = args.bsr_indptr + h * args.bsr_head_stride + b * blocks + i / args.bsr_rows;
  for (std::int32_t n = list[0]; n < list[1]; ++n) {
    if (args.bsr_indices[n] == j / args.bsr_keys) return true;
  }
  return false;
}

}  // namespace

bool sees(const AttentionArgs& args, std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) {
  if (!sees(args, b, i, j) || !tree_shows(args, b, i, j) || !list_shows(args, b, h, i, j)) return false;
  const ConstTensor& mask = args.mask;
  if (mask.data == nullptr) return true;
  return static_cast<const std::uint8_t*>(
             mask.data)[b * mask.stride[0] + h * mask.stride[1] + i * mask.stride[2] + j * mask.stride[3]] !=
         0;
}

namespace {

const float* row_of(const ConstTensor& t, std::int64_t b, std::int64_t h, std::int64_t s) {
  return static_cast<const float*>(t.data) + b * t.stride[0] + h * t.stride[1] + s * t.stride[2];
}

double bias_at(const ConstTensor& t, std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) {
  return kernels::load_element(static_cast<kernels::Element>(t.dtype), t.data,
                               b * t.stride[0] + h * t.stride[1] + i * t.stride[2] + j * t.stride[3]);
}

// The scaled score with softcap, bias and ALiBi, as defined.
template <class T>
T with_terms(const AttentionArgs& args, std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j,
             T score) {
  const T cap = static_cast<T>(args.softcap);
  if (cap != 0) score = cap * std::tanh(score / cap);
  if (args.bias.data != nullptr) score += static_cast<T>(bias_at(args.bias, b, h, i, j));
  if (args.alibi_slopes != nullptr) {
    const std::int64_t p =
        args.causal_alignment == CausalAlignment::bottom_right ? i + used_keys(args, b) - args.q.shape[2] : i;
    score -= static_cast<T>(args.alibi_slopes[b * args.alibi_batch_stride + h]) *
             static_cast<T>(p < j ? j - p : p - j);
  }
  return score;
}

/// The largest finite |x|, by its bits: without a branch, so that compilers take several at a time.
double largest_finite(const float* x, std::int64_t dim) {
  constexpr std::int32_t kInfinity = 0x7F800000;
  std::int32_t largest = 0;
  for (std::int64_t d = 0; d < dim; ++d) {
    const std::int32_t bits = std::bit_cast<std::int32_t>(x[d]) & 0x7FFFFFFF;
    largest = std::max(largest, bits < kInfinity ? bits : 0);
  }
  return static_cast<double>(std::bit_cast<float>(largest));
}

/// The keys that any sequence has: memory for the others need not exist.
std::int64_t most_used(const AttentionArgs& args) {
  std::int64_t most = 0;
  for (std::int64_t b = 0; b < args.q.shape[0]; ++b)
    most = std::max(most, std::min(used_keys(args, b), args.k.shape[2]));
  return most;
}

/// T is the type of every intermediate. Each sum is taken from left to right, one rounding per operation.
/// Loops over independent sums are the inner ones: emulated processors take most of a test's time here, and a
/// vector of sums at a time is a third of it.
template <class T>
class Attention {
 public:
  Attention(const AttentionArgs& args, DataType weights) : args_(args), weights_(weights) {}

  AttentionResult<T> result() {
    const auto rows = sz(batch_ * heads_ * q_len_);
    AttentionResult<T> result{std::vector<T>(rows * sz(v_head_dim_)), std::vector<T>(rows),
                              std::vector<RowFacts>(rows), std::vector<T>(rows)};
    std::size_t r = 0;
    for (std::int64_t b = 0; b < batch_; ++b) {
      for (std::int64_t h = 0; h < heads_; ++h) {
        if (h % group_ == 0) find_seen(b, h), take_keys(b, h / group_);
        for (std::int64_t i = 0; i < q_len_; ++i, ++r)
          attend(b, h, i, result.out.data() + r * sz(v_head_dim_), result.lse[r], result.row_max[r],
                 result.rows[r]);
      }
    }
    return result;
  }

 private:
  static constexpr T kInf = std::numeric_limits<T>::infinity();

  /// Which keys the rows of a group of heads see, the first of them `head`, and which any of them does.
  void find_seen(std::int64_t b, std::int64_t head) {
    if (heads_alike_ && head > 0) return;
    std::fill(anyone_sees_.begin(), anyone_sees_.end(), std::uint8_t{0});
    std::size_t n = 0;
    for (std::int64_t h = head; h < head + heads_apart_; ++h)
      for (std::int64_t i = 0; i < q_len_; ++i)
        for (std::int64_t j = 0; j < kv_len_; ++j, ++n)
          if ((seen_[n] = sees(args_, b, h, i, j))) anyone_sees_[sz(j)] = 1;
  }

  /// Their keys, transposed, and the largest of each one's values. Those that nobody sees need not exist.
  void take_keys(std::int64_t b, std::int64_t kv_head) {
    for (std::int64_t j = 0; j < kv_len_; ++j) {
      if (!anyone_sees_[sz(j)]) continue;
      const float* k = row_of(args_.k, b, kv_head, j);
      for (std::int64_t d = 0; d < head_dim_; ++d) keys_[sz(d * kv_len_ + j)] = static_cast<T>(k[d]);
      largest_value_[sz(j)] = largest_finite(row_of(args_.v, b, kv_head, j), v_head_dim_);
    }
  }

  /// q.k of keys [first, last).
  void multiply(const float* q, std::int64_t first, std::int64_t last) {
    T* product = product_.data();
    std::fill(product + first, product + last, T(0));
    const T* k = keys_.data();
    std::int64_t d = 0;
    for (; d + 4 <= head_dim_; d += 4, k += 4 * kv_len_) {
      const T q0 = static_cast<T>(q[d]), q1 = static_cast<T>(q[d + 1]), q2 = static_cast<T>(q[d + 2]),
              q3 = static_cast<T>(q[d + 3]);
      for (std::int64_t j = first; j < last; ++j)
        product[j] =
            product[j] + q0 * k[j] + q1 * k[kv_len_ + j] + q2 * k[2 * kv_len_ + j] + q3 * k[3 * kv_len_ + j];
    }
    for (; d < head_dim_; ++d, k += kv_len_) {
      const T q0 = static_cast<T>(q[d]);
      for (std::int64_t j = first; j < last; ++j) product[j] += q0 * k[j];
    }
  }

  /// out += weight * value, key by key.
  void add_values(std::int64_t b, std::int64_t kv_head, T* out) const {
    const auto value = [&](std::size_t n) { return row_of(args_.v, b, kv_head, key_[n]); };
    std::size_t n = 0;
    for (; n + 4 <= key_.size(); n += 4) {
      const T p0 = score_[n], p1 = score_[n + 1], p2 = score_[n + 2], p3 = score_[n + 3];
      const float *v0 = value(n), *v1 = value(n + 1), *v2 = value(n + 2), *v3 = value(n + 3);
      for (std::int64_t d = 0; d < v_head_dim_; ++d)
        out[d] = out[d] + p0 * static_cast<T>(v0[d]) + p1 * static_cast<T>(v1[d]) +
                 p2 * static_cast<T>(v2[d]) + p3 * static_cast<T>(v3[d]);
    }
    for (; n < key_.size(); ++n) {
      const float* v = value(n);
      for (std::int64_t d = 0; d < v_head_dim_; ++d) out[d] += score_[n] * static_cast<T>(v[d]);
    }
  }

  /// out points to v_head_dim values, all 0.
  void attend(std::int64_t b, std::int64_t h, std::int64_t i, T* out, T& lse, T& row_max, RowFacts& facts) {
    const T scale =
        args_.scale != 0.0f ? static_cast<T>(args_.scale) : T(1) / std::sqrt(static_cast<T>(head_dim_));
    key_.clear();
    const std::uint8_t* seen = seen_.data() + ((h % heads_apart_) * q_len_ + i) * kv_len_;
    for (std::int64_t j = 0; j < kv_len_; ++j)
      if (seen[j]) key_.push_back(j);
    if (!key_.empty()) multiply(row_of(args_.q, b, h, i), key_.front(), key_.back() + 1);

    const bool has_terms = args_.softcap != 0 || args_.bias.data != nullptr || args_.alibi_slopes != nullptr;
    score_.resize(key_.size());
    T max = -kInf;
    bool has_nan = false;
    for (std::size_t n = 0; n < key_.size(); ++n) {
      const std::int64_t j = key_[n];
      const T scaled = product_[sz(j)] * scale;
      const T score = has_terms ? with_terms(args_, b, h, i, j, scaled) : scaled;
      score_[n] = score;
      has_nan = has_nan || std::isnan(score);
      max = std::max(max, score);
      // The rounding of a score is that of its largest term.
      facts.max_score = larger_finite(facts.max_score, static_cast<double>(score));
      if (!has_terms) continue;
      facts.max_score = larger_finite(facts.max_score, static_cast<double>(scaled));
      if (args_.bias.data) facts.max_score = larger_finite(facts.max_score, bias_at(args_.bias, b, h, i, j));
    }
    facts.visible = static_cast<std::int64_t>(key_.size());
    row_max = has_nan || max == kInf ? std::numeric_limits<T>::quiet_NaN() : max;
    const T unit = args_.lse_base == LseBase::two ? T(1.44269504088896340736) : T(1);
    const T sink = args_.sinks != nullptr ? static_cast<T>(args_.sinks[h]) : -kInf;
    const bool sink_in_lse = args_.lse_with_sink && sink != -kInf;

    lse = sink_in_lse ? sink * unit : -kInf;
    if (max == -kInf && !has_nan) {
      std::fill(score_.begin(), score_.end(), T(0));
      add_values(b, h / group_, out);
      return;
    }
    facts.max_score = larger_finite(facts.max_score, static_cast<double>(sink));
    const T max_score = max;
    max = std::max(max, sink);

    T sum = 0, sum_without = 0;
    for (T& s : score_) {
      if (!args_.lse_with_sink) sum_without += std::exp(s - max_score);
      s = std::exp(s - max);  // +inf - +inf and NaN: NaN
      if (weights_ != DataType::f32) s = static_cast<T>(rounded(weights_, static_cast<float>(s)));
      sum += s;
    }
    add_values(b, h / group_, out);
    double max_v = 0, squares = 0;
    for (std::size_t n = 0; n < key_.size(); ++n) {
      max_v = std::max(max_v, largest_value_[sz(key_[n])]);
      squares += static_cast<double>(score_[n]) * static_cast<double>(score_[n]);
    }
    const T all = sink == -kInf ? sum : sum + (sink == max ? T(1) : std::exp(sink - max));
    facts.spread = max_v * std::sqrt(squares) / static_cast<double>(all);
    for (std::int64_t d = 0; d < v_head_dim_; ++d) out[d] /= all;
    lse = args_.lse_with_sink || sink == -kInf ? (max + std::log(all)) * unit
                                               : (max_score + std::log(sum_without)) * unit;
  }

  /// The larger of `largest` and |x|; NaN and infinities are not counted.
  static double larger_finite(double largest, double x) {
    const double size = std::abs(x);
    return size > largest && size <= std::numeric_limits<double>::max() ? size : largest;
  }

  const AttentionArgs& args_;
  const DataType weights_;
  const std::int64_t batch_ = args_.q.shape[0], heads_ = args_.q.shape[1], q_len_ = args_.q.shape[2],
                     head_dim_ = args_.q.shape[3], kv_len_ = most_used(args_), v_head_dim_ = args_.v.shape[3],
                     group_ = std::max<std::int64_t>(heads_ / std::max<std::int64_t>(args_.k.shape[1], 1), 1);
  const bool heads_alike_ = args_.mask.data == nullptr && args_.bsr_indptr == nullptr;
  const std::int64_t heads_apart_ =
      heads_alike_ ? 1 : group_;  ///< Of a group, those that may see other keys.
  std::vector<std::uint8_t> seen_ = std::vector<std::uint8_t>(sz(heads_apart_ * q_len_ * kv_len_));
  std::vector<std::uint8_t> anyone_sees_ = std::vector<std::uint8_t>(sz(kv_len_));
  std::vector<T> keys_ = std::vector<T>(sz(head_dim_ * kv_len_));  ///< [head_dim, kv_len]
  std::vector<double> largest_value_ = std::vector<double>(sz(kv_len_));
  std::vector<T> product_ = std::vector<T>(sz(kv_len_)), score_;
  std::vector<std::int64_t> key_;  ///< Those that the row sees.
};

}  // namespace

AttentionResult<double> attention_fp64(const AttentionArgs& args) {
  return Attention<double>(args, DataType::f32).result();
}
AttentionResult<float> attention_naive_f32(const AttentionArgs& args, DataType weights) {
  return Attention<float>(args, weights).result();
}

}  // namespace kumiko::test
