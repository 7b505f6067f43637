// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/attention_reference.h"

#include <cmath>
#include <limits>

#include "kernels/element.h"
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

const float* row(const ConstTensor& t, std::int64_t b, std::int64_t h, std::int64_t s) {
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

// One row. T is the type of every intermediate; out points to v_head_dim values.
template <class T>
void attention_row(const AttentionArgs& args, std::int64_t b, std::int64_t h, std::int64_t i,
                   std::vector<T>& score, T* out, T& lse, T& row_max, RowFacts& facts, DataType weights) {
  constexpr T kInf = std::numeric_limits<T>::infinity();
  const std::int64_t head_dim = args.q.shape[3], v_head_dim = args.v.shape[3];
  const std::int64_t kv_head = h / (args.q.shape[1] / args.k.shape[1]);
  const T scale =
      args.scale != 0.0f ? static_cast<T>(args.scale) : T(1) / std::sqrt(static_cast<T>(head_dim));

  score.clear();
  std::vector<std::int64_t> key;
  T max = -kInf;
  bool has_nan = false;
  for (std::int64_t j = 0; j < args.k.shape[2]; ++j) {
    if (!sees(args, b, h, i, j)) continue;
    const float* q = row(args.q, b, h, i);
    const float* k = row(args.k, b, kv_head, j);
    T dot = 0;
    for (std::int64_t d = 0; d < head_dim; ++d) dot += static_cast<T>(q[d]) * static_cast<T>(k[d]);
    score.push_back(with_terms(args, b, h, i, j, dot * scale));
    key.push_back(j);
    has_nan = has_nan || std::isnan(score.back());
    max = std::max(max, score.back());
    // The rounding of a score is that of its largest term.
    for (const double term : {static_cast<double>(score.back()), static_cast<double>(dot * scale),
                              args.bias.data ? bias_at(args.bias, b, h, i, j) : 0.0}) {
      if (std::isfinite(term)) facts.max_score = std::max(facts.max_score, std::abs(term));
    }
  }
  facts.visible = static_cast<std::int64_t>(key.size());
  row_max = has_nan || max == kInf ? std::numeric_limits<T>::quiet_NaN() : max;
  const T unit = args.lse_base == LseBase::two ? T(1.44269504088896340736) : T(1);
  const T sink = args.sinks != nullptr ? static_cast<T>(args.sinks[h]) : -kInf;
  const bool sink_in_lse = args.lse_with_sink && sink != -kInf;

  for (std::int64_t d = 0; d < v_head_dim; ++d) out[d] = 0;
  lse = sink_in_lse ? sink * unit : -kInf;
  if (max == -kInf && !has_nan) return;
  if (std::isfinite(sink)) facts.max_score = std::max(facts.max_score, std::abs(static_cast<double>(sink)));
  const T max_score = max;
  max = std::max(max, sink);

  T sum = 0;
  const std::vector<T> raw = score;
  for (T& s : score) {
    s = std::exp(s - max);  // +inf - +inf and NaN: NaN
    if (weights != DataType::f32) s = static_cast<T>(rounded(weights, static_cast<float>(s)));
    sum += s;
  }
  double max_v = 0, squares = 0;
  for (std::size_t n = 0; n < score.size(); ++n) {
    const float* v = row(args.v, b, kv_head, key[n]);
    for (std::int64_t d = 0; d < v_head_dim; ++d) {
      out[d] += score[n] * static_cast<T>(v[d]);
      if (std::isfinite(v[d])) max_v = std::max(max_v, std::abs(static_cast<double>(v[d])));
    }
    squares += static_cast<double>(score[n]) * static_cast<double>(score[n]);
  }
  const T all = sink == -kInf ? sum : sum + (sink == max ? T(1) : std::exp(sink - max));
  facts.spread = max_v * std::sqrt(squares) / static_cast<double>(all);
  for (std::int64_t d = 0; d < v_head_dim; ++d) out[d] /= all;
  if (args.lse_with_sink || sink == -kInf) {
    lse = (max + std::log(all)) * unit;
    return;
  }
  T sum_without = 0;
  for (const T& s : raw) sum_without += std::exp(s - max_score);
  lse = (max_score + std::log(sum_without)) * unit;
}

template <class T>
AttentionResult<T> attention(const AttentionArgs& args, DataType weights = DataType::f32) {
  const auto [batch, heads, q_len, head_dim] = args.q.shape;
  const auto rows = static_cast<std::size_t>(batch * heads * q_len);
  AttentionResult<T> result{std::vector<T>(rows * static_cast<std::size_t>(args.v.shape[3])),
                            std::vector<T>(rows), std::vector<RowFacts>(rows), std::vector<T>(rows)};
  std::vector<T> score;
  std::size_t r = 0;
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t h = 0; h < heads; ++h)
      for (std::int64_t i = 0; i < q_len; ++i, ++r)
        attention_row(args, b, h, i, score, result.out.data() + r * static_cast<std::size_t>(args.v.shape[3]),
                      result.lse[r], result.row_max[r], result.rows[r], weights);
  return result;
}

}  // namespace

AttentionResult<double> attention_fp64(const AttentionArgs& args) {
  return attention<double>(args);
}
AttentionResult<float> attention_naive_f32(const AttentionArgs& args, DataType weights) {
  return attention<float>(args, weights);
}

}  // namespace kumiko::test
