// SPDX-License-Identifier: Apache-2.0
// The spec of decode.h in plain C++.
#include <cmath>
#include <limits>

#include "kernels/decode/decode.h"
#include "kernels/simd/scalar.h"

namespace kumiko::kernels {

namespace {

template <class T>
void decode(const DecodeBlockArgs& args) {
  const T* k = static_cast<const T*>(args.k);
  const T* v = static_cast<const T*>(args.v);
  for (std::int64_t row = 0; row < args.rows; ++row) {
    float* s = args.scores + row * args.score_stride;
    float* o = args.o + row * args.o_stride;
    const std::int64_t begin = args.begin[row], end = args.end[row];
    if (begin >= end) continue;
    float m = args.m[row];
    for (std::int64_t j = begin; j < end; ++j) {
      float sum = 0.0f;
      for (std::int64_t d = 0; d < args.dim; ++d)
        sum = std::fma(to_float(k[j * args.k_stride + d]), args.q[row * args.q_stride + d], sum);
      s[j] = sum;
    }
    const auto hidden = [&](std::int64_t j) {
      const ScoreRowArgs* terms = args.terms ? args.terms + row : nullptr;
      return terms && terms->terms->has_mask && terms->mask[j * terms->terms->mask_stride] == 0;
    };
    if (args.terms) {
      ScoreRowArgs terms = args.terms[row];
      terms.s = s;
      terms.kv = args.kv;
      args.score_row(terms);
    }
    for (std::int64_t j = begin; j < end; ++j) {
      if (s[j] > m) m = s[j];
    }
    const float shift = m == -std::numeric_limits<float>::infinity() ? 0.0f : m;
    const float alpha = exp2_scalar(args.m[row] - shift);
    float l = args.l[row] * alpha;
    for (std::int64_t d = 0; d < args.v_dim; ++d) o[d] *= alpha;
    for (std::int64_t j = begin; j < end; ++j) {
      if (hidden(j)) continue;
      const float p = exp2_scalar(s[j] - shift);
      l += p;
      for (std::int64_t d = 0; d < args.v_dim; ++d)
        o[d] = std::fma(p, to_float(v[j * args.v_stride + d]), o[d]);
    }
    args.m[row] = m;
    args.l[row] = l;
  }
}

}  // namespace

void decode_f32_reference(const DecodeBlockArgs& args) noexcept {
  decode<float>(args);
}
void decode_bf16_reference(const DecodeBlockArgs& args) noexcept {
  decode<Bf16>(args);
}
void decode_f16_reference(const DecodeBlockArgs& args) noexcept {
  decode<F16>(args);
}

}  // namespace kumiko::kernels
