// SPDX-License-Identifier: Apache-2.0
// The spec of decode.h's product f16 in plain C++.
#include <cmath>

#include "kernels/decode/decode.h"
#include "kernels/decode/rows.h"
#include "kernels/gemm/gemm.h"
#include "kernels/pack/pack.h"
#include "kernels/simd/half_scalar.h"
#include "kernels/simd/scalar.h"
#include "kernels/softmax/half.h"

namespace kumiko::kernels {
namespace {

bool is_ordinary_half(F16 x) {
  return std::fabs(to_float(x)) <= kHalfValueLimit;
}

/// pack.h's key, one dim after another.
struct ScaledKey {
  F16 dims[1024];
  float range = 1.0f;

  ScaledKey(const F16* key, std::int64_t dim) {
    const PackKernel& pack = *find_pack(Isa::reference, Element::f16, Element::f16);
    F16 panel[4 * 1024];
    float ranges[4];
    pack.key({key, dim, 1, dim, panel, ranges});
    range = ranges[0];
    for (std::int64_t d = 0; d < dim; ++d) dims[d] = panel[d * pack.mr];
  }
};

float half_reference_score(const DecodeScoresArgs& args, std::int64_t row, const ScaledKey& key) {
  const F16* const q = reinterpret_cast<const F16*>(args.q);
  float sum = 0.0f;
  const auto chain = [&](std::int64_t first) {
    F16 of{};
    for (std::int64_t d = first; d < args.dim && d < first + kHalfChain; ++d)
      of = fused(key.dims[d], q[d * args.q_stride + row], of);
    return of;
  };
  for (std::int64_t first = 0; first < args.dim; first += kHalfPair) {
    F16 pair = chain(first);
    if (first + kHalfChain < args.dim) pair = added(pair, chain(first + kHalfChain));
    sum = first == 0 ? to_float(pair) : sum + to_float(pair);
  }
  return sum * args.range[row] * key.range;
}

void half_reference_softmax(const DecodeSoftmaxArgs& args, std::int64_t row) {
  float* s = args.scores + row * args.score_stride;
  for (std::int64_t j = 0; j < args.kv; ++j) {
    if (j < args.begin[row] || j >= args.end[row]) s[j] = -__builtin_inff();
  }
  float top = -__builtin_inff(), alpha;
  for (std::int64_t j = 0; j < args.kv; ++j) {
    if (s[j] > top) top = s[j];
  }
  // A row is a tile of one query.
  find_softmax(Isa::reference, Element::f16)
      ->probabilities({s, args.kv, 1, &top, args.m + row, args.l + row, &alpha, 1.0f});
  float* o = args.o + row * args.o_stride;
  for (std::int64_t d = 0; d < args.v_dim; ++d) o[d] *= alpha;
}

void half_reference_values(const DecodeValuesArgs& args, std::int64_t row) {
  const F16* const p = reinterpret_cast<const F16*>(args.p + row * args.p_stride);
  float* const o = args.o + row * args.o_stride;
  const KeyRuns& runs = args.runs[row];
  const auto visit = [&](auto step) {
    for (const KeyRun* run = runs.run; run != runs.run + runs.count; ++run) {
      for (std::int64_t j = run->begin; j < run->end; ++j) step(j, row_of<F16>(args.v, j));
    }
  };
  for (std::int64_t d = 0; d < args.v_dim; ++d) {
    F16 chain[2] = {};
    std::int64_t number = args.first_key / kHalfPair;
    const auto end = [&] {
      o[d] += to_float(added(chain[0], chain[1]));
      chain[0] = chain[1] = {};
    };
    visit([&](std::int64_t j, const F16* value) {
      const std::int64_t at = args.first_key + j;
      if (at / kHalfPair != number) end();
      number = at / kHalfPair;
      F16& of = chain[at / kHalfChain % 2];
      if (is_ordinary_half(value[d])) of = fused(p[j], value[d], of);
    });
    end();
    visit([&](std::int64_t j, const F16* value) {
      if (!is_ordinary_half(value[d])) o[d] = std::fma(to_float(p[j]), to_float(value[d]), o[d]);
    });
  }
}

}  // namespace

void decode_f16_reference_half_scores(const DecodeScoresArgs& args) noexcept {
  for (std::int64_t j = 0; j < args.kv; ++j) {
    const ScaledKey key(row_of<F16>(args.k, j), args.dim);
    for (std::int64_t row = 0; row < args.rows; ++row)
      args.scores[row * args.score_stride + j] = half_reference_score(args, row, key);
  }
}

void decode_f16_reference_half_softmax(const DecodeSoftmaxArgs& args) noexcept {
  for (std::int64_t row = 0; row < args.rows; ++row) {
    if (args.begin[row] < args.end[row]) half_reference_softmax(args, row);
  }
}

void decode_f16_reference_half_add_values(const DecodeValuesArgs& args) noexcept {
  for (std::int64_t row = 0; row < args.rows; ++row) {
    if (args.runs[row].count > 0) half_reference_values(args, row);
  }
}

}  // namespace kumiko::kernels
