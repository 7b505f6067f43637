// SPDX-License-Identifier: Apache-2.0
// Rows of bf16, rounded by the conversion instruction. It takes subnormal numbers as 0, which append.h keeps:
// vectors with one, or with a NaN, are rounded as on avx512.
#include "kernels/append/vector.h"
#include "kernels/simd/avx512.h"

namespace kumiko::kernels {
namespace {

struct Avx512Rounding : Avx512 {
  static void store_two(Bf16* p, Reg a, Reg b) { _mm512_storeu_si512(p, narrow_two(a, b)); }
  static void stream_two(Bf16* p, Reg a, Reg b) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(p), narrow_two(a, b));
  }

 private:
  static Int narrow_two(Reg a, Reg b) {
    constexpr int kQuietNan = 0x01, kSubnormal = 0x20, kSignalingNan = 0x80;
    constexpr int kOthers = kQuietNan | kSubnormal | kSignalingNan;
    if (__builtin_expect((_mm512_fpclass_ps_mask(a, kOthers) | _mm512_fpclass_ps_mask(b, kOthers)) != 0, 0))
      return Avx512::narrow_two(a, b);
    return (Int)_mm512_cvtne2ps_pbh(b, a);
  }
};

}  // namespace

KUMIKO_APPEND_KERNEL(avx512_bf16, Avx512Rounding, bf16, bf16)
KUMIKO_APPEND_KERNEL(avx512_bf16, Avx512Rounding, f32, bf16)

}  // namespace kumiko::kernels
