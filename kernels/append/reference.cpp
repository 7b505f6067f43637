// SPDX-License-Identifier: Apache-2.0
// The spec of append.h in plain C++.
#include <cmath>
#include <cstring>
#include <type_traits>

#include "kernels/append/append.h"

namespace kumiko::kernels {
namespace {

template <class From>
float inverse_rms(const From* in, std::int64_t dim, float eps) {
  float sums[16] = {};
  for (std::int64_t d = 0; d < dim; ++d) {
    const float x = to_float(in[d]);
    sums[d % 16] = std::fma(x, x, sums[d % 16]);
  }
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) sums[i] += sums[i + width];
  }
  return 1.0f / std::sqrt(sums[0] / static_cast<float>(dim) + eps);
}

template <class From, class To>
void append_row(const AppendArgs& args, const From* in, To* out) {
  const float inverse = args.weight ? inverse_rms(in, args.dim, args.eps) : 1.0f;
  const auto value = [&](std::int64_t d) {
    const float x = to_float(in[d]);
    return args.weight ? x * inverse * args.weight[d] : x;
  };
  const auto store = [&](std::int64_t d, float x) { from_float(canonical(x), out + d); };
  const std::int64_t half = args.rotary_dim / 2;
  std::int64_t d = 0;
  if (args.pairs == RotaryPairs::halves) {
    for (; d < half; ++d) {
      const float a = value(d), b = value(d + half), cos = args.cos[d], sin = args.sin[d];
      store(d, a * cos - b * sin);
      store(d + half, b * cos + a * sin);
    }
    d = args.rotary_dim;
  } else if (args.pairs == RotaryPairs::adjacent) {
    for (; d < args.rotary_dim; d += 2) {
      const float a = value(d), b = value(d + 1);
      store(d, a * args.cos[d] + b * args.sin[d]);
      store(d + 1, b * args.cos[d + 1] + a * args.sin[d + 1]);
    }
  }
  for (; d < args.dim; ++d) store(d, value(d));
}

template <class From, class To>
void append_rows(const AppendArgs& args) {
  for (std::int64_t row = 0; row < args.rows; ++row) {
    const From* in = static_cast<const From*>(args.in) + row * args.in_stride;
    To* out = static_cast<To*>(args.out) + row * args.out_stride;
    if (std::is_same_v<From, To> && !args.weight && args.pairs == RotaryPairs::none)
      std::memmove(out, in, static_cast<std::size_t>(args.dim) * sizeof(To));  // they may be the same
    else
      append_row(args, in, out);
  }
}

using Type_f32 = float;
using Type_bf16 = Bf16;
using Type_f16 = F16;

}  // namespace

#define KUMIKO_APPEND_REFERENCE(from, to)                                     \
  void append_##from##_to_##to##_reference(const AppendArgs& args) noexcept { \
    append_rows<Type_##from, Type_##to>(args);                                \
  }
KUMIKO_APPEND_REFERENCE(f32, f32)
KUMIKO_APPEND_REFERENCE(f32, bf16)
KUMIKO_APPEND_REFERENCE(f32, f16)
KUMIKO_APPEND_REFERENCE(bf16, f32)
KUMIKO_APPEND_REFERENCE(bf16, bf16)
KUMIKO_APPEND_REFERENCE(bf16, f16)
KUMIKO_APPEND_REFERENCE(f16, f32)
KUMIKO_APPEND_REFERENCE(f16, bf16)
KUMIKO_APPEND_REFERENCE(f16, f16)

}  // namespace kumiko::kernels
