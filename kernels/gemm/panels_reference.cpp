// SPDX-License-Identifier: Apache-2.0
// The spec of panels.h in plain C++.
#include <algorithm>

#include "kernels/element.h"
#include "kernels/gemm/panels.h"
#include "kernels/simd/half_scalar.h"

namespace kumiko::kernels {
namespace {

template <int MR, int NR>
F16 chain(const PanelArgs& args, int m, int n, std::int64_t first, std::int64_t end) {
  const auto *a = static_cast<const F16*>(args.a), *b = static_cast<const F16*>(args.b);
  F16 sum{};
  for (std::int64_t k = first; k < end; ++k) sum = fused(a[k * MR + m], b[k * NR + n], sum);
  return sum;
}

template <int MR, int NR>
struct Mixed {
  using C = float;
  static C element(const PanelArgs& args, int m, int n, const C* sum) {
    C out = sum ? *sum : 0.0f;
    for (std::int64_t k = 0; k < args.k;) {
      // k + k_block could exceed 2^63.
      const std::int64_t end = k + std::min(args.k_block, args.k - k);
      const float block = to_float(chain<MR, NR>(args, m, n, k, end));
      out = k == 0 && !sum ? block : out + block;
      k = end;
    }
    return out;
  }
};

template <int MR, int NR>
struct Dot {
  using C = std::int32_t;
  static C element(const PanelArgs& args, int m, int n, const C* sum) {
    const auto *a = static_cast<const std::int8_t*>(args.a), *b = static_cast<const std::int8_t*>(args.b);
    auto out = static_cast<std::uint32_t>(sum ? *sum : 0);
    for (std::int64_t k = 0; k < (args.k + 3) / 4 * 4; ++k) {
      const int product = a[(k / 4 * MR + m) * 4 + k % 4] * b[(k / 4 * NR + n) * 4 + k % 4];
      out += static_cast<std::uint32_t>(product);
    }
    return static_cast<std::int32_t>(out);
  }
};

template <class Type>
void tile(const PanelArgs& args, bool accumulates) {
  for (int m = 0; m < args.m; ++m) {
    auto* row = reinterpret_cast<typename Type::C*>(static_cast<char*>(args.c) + m * args.ldc);
    for (int n = 0; n < args.n; ++n) row[n] = Type::element(args, m, n, accumulates ? row + n : nullptr);
  }
}

}  // namespace

extern "C" {
void panel_f16_4x8_reference_init(const PanelArgs* args) noexcept {
  tile<Mixed<4, 8>>(*args, false);
}
void panel_f16_4x8_reference_accumulate(const PanelArgs* args) noexcept {
  tile<Mixed<4, 8>>(*args, true);
}
void panel_i8_4x8_reference_init(const PanelArgs* args) noexcept {
  tile<Dot<4, 8>>(*args, false);
}
void panel_i8_4x8_reference_accumulate(const PanelArgs* args) noexcept {
  tile<Dot<4, 8>>(*args, true);
}
}

}  // namespace kumiko::kernels
