// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/gradient_reference.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "kernels/element.h"
#include "tests/reference/attention_reference.h"

namespace kumiko::test {
namespace {

constexpr double kLog2e = 1.44269504088896340736;

const float* row(const ConstTensor& t, std::int64_t b, std::int64_t h, std::int64_t s) {
  return static_cast<const float*>(t.data) + b * t.stride[0] + h * t.stride[1] + s * t.stride[2];
}

template <class T>
T dot(const float* a, const float* b, std::int64_t dim) {
  T sum = 0;
  for (std::int64_t d = 0; d < dim; ++d) sum += static_cast<T>(a[d]) * static_cast<T>(b[d]);
  return sum;
}

double largest_of(const float* x, std::int64_t dim) {
  double largest = 0;
  for (std::int64_t d = 0; d < dim; ++d)
    if (std::isfinite(x[d])) largest = std::max(largest, std::abs(static_cast<double>(x[d])));
  return largest;
}

/// A pair's score and its derivative by the scaled product of query and key.
template <class T>
struct Score {
  std::int64_t key;
  T value, slope;
  double largest_term;
};

template <class T>
Score<T> score_of(const AttentionArgs& args, std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j,
                  T product) {
  Score<T> score{j, product, 1, std::abs(static_cast<double>(product))};
  if (const T cap = static_cast<T>(args.softcap); cap != 0) {
    const T t = std::tanh(product / cap);
    score.value = cap * t;
    score.slope = 1 - t * t;
  }
  if (const ConstTensor& bias = args.bias; bias.data != nullptr) {
    const double term = kernels::load_element(
        static_cast<kernels::Element>(bias.dtype), bias.data,
        b * bias.stride[0] + h * bias.stride[1] + i * bias.stride[2] + j * bias.stride[3]);
    score.value += static_cast<T>(term);
    if (std::isfinite(term)) score.largest_term = std::max(score.largest_term, std::abs(term));
  }
  if (args.alibi_slopes != nullptr) {
    const std::int64_t p =
        args.causal_alignment == CausalAlignment::bottom_right ? i + used_keys(args, b) - args.q.shape[2] : i;
    score.value -= static_cast<T>(args.alibi_slopes[b * args.alibi_batch_stride + h]) *
                   static_cast<T>(p < j ? j - p : p - j);
  }
  if (std::isfinite(score.value))
    score.largest_term = std::max(score.largest_term, std::abs(static_cast<double>(score.value)));
  return score;
}

void meet(GradientFacts& facts, double max_score, double size, double factor) {
  ++facts.pairs;
  facts.max_score = std::max(facts.max_score, max_score);
  facts.squares += size * size;
  facts.largest = std::max(facts.largest, factor);
}

template <class T>
T as_bf16(T x) {
  if (std::fpclassify(x) == FP_SUBNORMAL) return T(0);
  kernels::Bf16 narrow{};
  kernels::from_float(static_cast<float>(x), &narrow);
  return static_cast<T>(kernels::to_float(narrow));
}

template <class T>
GradientResult<T> gradients(const AttentionArgs& args, std::span<const float> dout,
                            std::span<const float> dlse, Rounded what) {
  constexpr T kInf = std::numeric_limits<T>::infinity();
  const auto [batch, heads, q_len, dim] = args.q.shape;
  const std::int64_t kv_heads = args.k.shape[1], kv_len = args.k.shape[2], v_dim = args.v.shape[3];
  const T scale = args.scale != 0.0f ? static_cast<T>(args.scale) : T(1) / std::sqrt(static_cast<T>(dim));
  const auto sz = [](std::int64_t n) { return static_cast<std::size_t>(n); };
  GradientResult<T> r;
  r.dq.resize(sz(batch * heads * q_len * dim)), r.q_facts.resize(sz(batch * heads * q_len));
  r.dk.resize(sz(batch * kv_heads * kv_len * dim)), r.k_facts.resize(sz(batch * kv_heads * kv_len));
  r.dv.resize(sz(batch * kv_heads * kv_len * v_dim)), r.v_facts.resize(sz(batch * kv_heads * kv_len));
  r.dsinks.resize(sz(heads));
  const std::int64_t pairs = batch * heads * q_len * kv_len;
  r.dscores.resize(sz(pairs)), r.dscore_sizes.resize(sz(pairs)), r.max_scores.resize(sz(pairs));
  std::vector<Score<T>> scores;
  std::vector<T> p, dp, weights;  // those of the forward call
  // largest_of() keys and values, each when a query first sees it: hidden ones need not exist.
  std::vector<double> largest_k(sz(batch * kv_heads * kv_len), -1.0), largest_v = largest_k;
  for (std::int64_t n = 0; n < batch * heads * q_len; ++n) {
    const std::int64_t b = n / (heads * q_len), h = n / q_len % heads, i = n % q_len,
                       kv_head = h * kv_heads / heads;
    const float *q = row(args.q, b, h, i), *g = dout.data() + n * v_dim;
    const T sink = args.sinks != nullptr ? static_cast<T>(args.sinks[h]) : -kInf;
    scores.clear();
    T max = sink;
    bool has_nan = false;
    for (std::int64_t j = 0; j < kv_len; ++j) {
      if (!sees(args, b, h, i, j)) continue;
      const float* k = row(args.k, b, kv_head, j);
      scores.push_back(score_of(args, b, h, i, j, dot<T>(q, k, dim) * scale));
      has_nan = has_nan || std::isnan(scores.back().value);
      max = std::max(max, scores.back().value);
    }
    T all = sink == -kInf ? T(0) : sink == max ? T(1) : std::exp(sink - max), keys = 0, delta = 0;
    const T sink_weight = all;
    p.clear(), dp.clear(), weights.clear();
    for (const Score<T>& s : scores) {
      p.push_back(max == -kInf && !has_nan ? T(0) : std::exp(s.value - max));
      dp.push_back(dot<T>(g, row(args.v, b, kv_head, s.key), v_dim));
      weights.push_back(what == Rounded::all_weights ? as_bf16(p.back()) : p.back());
      keys += weights.back();
    }
    all += keys;
    const T unit = args.lse_base == LseBase::two ? static_cast<T>(kLog2e) : T(1),
            given = dlse.empty() ? T(0) : static_cast<T>(dlse[sz(n)]) * unit;
    for (std::size_t s = 0; s < scores.size(); ++s) {
      p[s] = all == 0 || scores[s].value == -kInf ? T(0) : p[s] / all;
      weights[s] = what == Rounded::all_weights && all != 0 ? weights[s] / all : p[s];
      if (scores[s].value != -kInf) delta += weights[s] * dp[s];
    }
    const bool sink_in_lse = args.lse_with_sink || sink == -kInf;
    if (sink != -kInf) {
      const T weight = sink_weight / all;
      r.dsinks[sz(h)] += -weight * delta + (sink_in_lse ? weight * given : T(0));
    }
    const T of_lse = sink_in_lse || keys == 0 ? given : given * all / keys;
    const double largest_q = largest_of(q, dim), largest_g = largest_of(g, v_dim);
    double max_score = 0;
    for (const Score<T>& s : scores) max_score = std::max(max_score, s.largest_term);
    if (std::isfinite(sink)) max_score = std::max(max_score, std::abs(static_cast<double>(sink)));
    for (std::size_t s = 0; s < scores.size(); ++s) {
      const std::int64_t key_row = (b * kv_heads + kv_head) * kv_len + scores[s].key;
      const float* k = row(args.k, b, kv_head, scores[s].key);
      if (largest_k[sz(key_row)] < 0) {
        largest_k[sz(key_row)] = largest_of(k, dim);
        largest_v[sz(key_row)] = largest_of(row(args.v, b, kv_head, scores[s].key), v_dim);
      }
      const bool takes_part = scores[s].value != -kInf;
      const T dscore = takes_part ? p[s] * (dp[s] - delta + of_lse) : T(0),
              unscaled = takes_part ? dscore * scores[s].slope : T(0),
              ds = (what == Rounded::nothing ? unscaled : as_bf16(unscaled)) * scale,
              weight = what == Rounded::nothing ? p[s] : as_bf16(p[s]);
      const double dscore_size =
          static_cast<double>(p[s]) *
          (largest_g * largest_v[sz(key_row)] * std::sqrt(static_cast<double>(v_dim)) +
           std::abs(static_cast<double>(delta)) + std::abs(static_cast<double>(of_lse)));
      const double size = dscore_size * static_cast<double>(scale);
      const std::size_t pair = sz(n * kv_len + scores[s].key);
      r.dscores[pair] = dscore, r.dscore_sizes[pair] = dscore_size, r.max_scores[pair] = max_score;
      for (std::int64_t d = 0; d < dim; ++d) {
        r.dq[sz(n * dim + d)] += ds * static_cast<T>(k[d]);
        r.dk[sz(key_row * dim + d)] += ds * static_cast<T>(q[d]);
      }
      for (std::int64_t d = 0; d < v_dim; ++d) r.dv[sz(key_row * v_dim + d)] += weight * static_cast<T>(g[d]);
      meet(r.q_facts[sz(n)], max_score, size, largest_k[sz(key_row)]);
      meet(r.k_facts[sz(key_row)], max_score, size, largest_q);
      meet(r.v_facts[sz(key_row)], max_score, static_cast<double>(p[s]), largest_g);
    }
  }
  return r;
}

}  // namespace

GradientResult<double> gradients_fp64(const AttentionArgs& args, std::span<const float> dout,
                                      std::span<const float> dlse) {
  return gradients<double>(args, dout, dlse, Rounded::nothing);
}
GradientResult<float> gradients_naive_f32(const AttentionArgs& args, std::span<const float> dout,
                                          std::span<const float> dlse, Rounded what) {
  return gradients<float>(args, dout, dlse, what);
}

::testing::AssertionResult gradient_is_right(std::span<const float> got, std::span<const double> fp64,
                                             std::span<const float> naive,
                                             std::span<const GradientFacts> facts, WorstGradient* worst,
                                             Rounded what) {
  constexpr double kRoundoff = 0x1p-24;
  if (got.size() != fp64.size())
    return ::testing::AssertionFailure() << got.size() << " elements, expected " << fp64.size();
  if (got.empty()) return ::testing::AssertionSuccess();
  const std::size_t columns = got.size() / facts.size();
  const bool is_rounded = what != Rounded::nothing;
  struct Group {
    double error = 0, naive = 0, max_score = 0;
    double squares = 0, naive_squares = 0;  // of all errors
    std::size_t at = 0, elements = 0;
  };
  std::array<Group, 65> groups{};
  for (std::size_t n = 0; n < got.size(); ++n) {
    const GradientFacts& row = facts[n / columns];
    Group& group = groups[static_cast<std::size_t>(std::bit_width(static_cast<std::uint64_t>(row.pairs)))];
    const double want = fp64[n], have = got[n];
    if (std::isnan(want) != std::isnan(have) || (!std::isfinite(want) && !std::isnan(want) && want != have) ||
        (std::isfinite(want) && !std::isfinite(have)))
      return ::testing::AssertionFailure() << "element " << n << " is " << have << ", fp64 " << want;
    if (!std::isfinite(want)) continue;
    const double size = std::sqrt(row.squares) * row.largest,
                 unit = kRoundoff * std::max(std::isfinite(size) ? size : std::abs(want), 0x1p-126);
    // Products of bf16 take what is below 2^-126 for 0: a pair's P or dS, and its product.
    const double flushed =
        is_rounded && std::isfinite(size) ? static_cast<double>(row.pairs) * (1 + row.largest) * 0x1p-126 : 0;
    const double error = std::max(std::abs(have - want) - flushed, 0.0) / unit,
                 of_naive = std::abs(naive[n] - want) / unit;
    group.max_score = std::max(group.max_score, row.max_score);
    if (error > group.error) group.error = error, group.at = n;
    group.squares += error * error, ++group.elements;
    if (std::isfinite(of_naive))
      group.naive = std::max(group.naive, of_naive), group.naive_squares += of_naive * of_naive;
  }
  for (const Group& group : groups) {
    if (worst) *worst = {std::max(worst->error, group.error), std::max(worst->naive, group.naive)};
    const double floor = 4 * (1 + group.max_score), of_bf16 = is_rounded ? 0x1p-9 / kRoundoff : 0.0;
    if (!(group.error <= 2 * group.naive + floor + of_bf16))
      return ::testing::AssertionFailure()
             << "element " << group.at << " is " << got[group.at] << ", fp64 " << fp64[group.at] << ", naive "
             << naive[group.at] << ": error " << group.error << " roundoffs, naive's worst " << group.naive
             << ", floor " << floor + of_bf16;
    const double count = static_cast<double>(group.elements), rms = std::sqrt(group.squares / count),
                 naive_rms = std::sqrt(group.naive_squares / count);
    if (is_rounded && group.elements >= 64 * columns && !(rms <= 1.25 * naive_rms + floor))
      return ::testing::AssertionFailure()
             << "among " << group.elements / columns << " rows, of which element " << group.at
             << " is the worst: error " << rms << " roundoffs, naive's " << naive_rms << ", floor " << floor;
  }
  return ::testing::AssertionSuccess();
}

}  // namespace kumiko::test
