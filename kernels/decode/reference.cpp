// SPDX-License-Identifier: Apache-2.0
// The spec of decode.h in plain C++.
#include <cmath>
#include <limits>

#include "kernels/decode/decode.h"
#include "kernels/decode/rows.h"
#include "kernels/simd/scalar.h"
#include "kernels/simd/scalar_fma.h"

namespace kumiko::kernels {

namespace {

template <class T>
void decode_scores(const DecodeScoresArgs& args) {
  with_fma([&]() __attribute__((always_inline)) {
    for (std::int64_t row = 0; row < args.rows; ++row) {
      for (std::int64_t j = 0; j < args.kv; ++j) {
        const T* key = row_of<T>(args.k, j);
        float sum = 0.0f;
        for (std::int64_t d = 0; d < args.dim; ++d)
          sum = std::fma(to_float(key[d]), args.q[row * args.q_stride + d], sum);
        args.scores[row * args.score_stride + j] = sum;
      }
    }
  });
}

void row_softmax(const DecodeSoftmaxArgs& args, std::int64_t row) {
  float* s = args.scores + row * args.score_stride;
  float* o = args.o + row * args.o_stride;
  const std::int64_t begin = args.begin[row], end = args.end[row];
  float m = args.m[row];
  for (std::int64_t j = begin; j < end; ++j) {
    if (s[j] > m) m = s[j];
  }
  const float shift = m == -std::numeric_limits<float>::infinity() ? 0.0f : m;
  const float alpha = exp2_scalar(args.m[row] - shift);
  args.m[row] = m;
  args.l[row] *= alpha;
  for (std::int64_t d = 0; d < args.v_dim; ++d) o[d] *= alpha;
  for (std::int64_t j = 0; j < args.kv; ++j) s[j] = j >= begin && j < end ? exp2_scalar(s[j] - shift) : 0.0f;
}

template <class T>
void decode_add_values(const DecodeValuesArgs& args) {
  with_fma([&]() __attribute__((always_inline)) {
    for (std::int64_t row = 0; row < args.rows; ++row) {
      const float* p = args.p + row * args.p_stride;
      float* o = args.o + row * args.o_stride;
      const KeyRuns& runs = args.runs[row];
      for (const KeyRun* run = runs.run; run != runs.run + runs.count; ++run) {
        for (std::int64_t j = run->begin; j < run->end; ++j) {
          const T* value = row_of<T>(args.v, j);
          args.l[row] += p[j];
          for (std::int64_t d = 0; d < args.v_dim; ++d) o[d] = std::fma(p[j], to_float(value[d]), o[d]);
        }
      }
    }
  });
}

void decode_softmax(const DecodeSoftmaxArgs& args) {
  for (std::int64_t row = 0; row < args.rows; ++row) {
    if (args.begin[row] < args.end[row]) row_softmax(args, row);
  }
}

}  // namespace

void decode_f32_reference_scores(const DecodeScoresArgs& args) noexcept {
  decode_scores<float>(args);
}
void decode_f32_reference_softmax(const DecodeSoftmaxArgs& args) noexcept {
  decode_softmax(args);
}
void decode_f32_reference_add_values(const DecodeValuesArgs& args) noexcept {
  decode_add_values<float>(args);
}
void decode_bf16_reference_scores(const DecodeScoresArgs& args) noexcept {
  decode_scores<Bf16>(args);
}
void decode_bf16_reference_softmax(const DecodeSoftmaxArgs& args) noexcept {
  decode_softmax(args);
}
void decode_bf16_reference_add_values(const DecodeValuesArgs& args) noexcept {
  decode_add_values<Bf16>(args);
}
void decode_f16_reference_scores(const DecodeScoresArgs& args) noexcept {
  decode_scores<F16>(args);
}
void decode_f16_reference_softmax(const DecodeSoftmaxArgs& args) noexcept {
  decode_softmax(args);
}
void decode_f16_reference_add_values(const DecodeValuesArgs& args) noexcept {
  decode_add_values<F16>(args);
}

}  // namespace kumiko::kernels
