// SPDX-License-Identifier: Apache-2.0
// f16 vectors of 32 lanes in SVE registers of 512 bits, beside the f32 vectors of sve512.h. Assumes the state
// of float_state.h: subnormal operands and results of f16 arithmetic are 0, those of conversions are kept.
#pragma once

#include "kernels/simd/sve512.h"

namespace kumiko::kernels {
namespace {

struct Sve512Half {
  using Reg = svfloat16_t __attribute__((arm_sve_vector_bits(512)));
  using Bits = svuint16_t __attribute__((arm_sve_vector_bits(512)));
  using ShiftBits = svint16_t __attribute__((arm_sve_vector_bits(512)));
  using Wide = Sve512::Reg;
  static constexpr int kLanes = 32;
  static constexpr int kTurned = 16;  ///< rows that are transposed together

  static svbool_t all() { return svptrue_b16(); }
  static svbool_t first(std::int64_t n) { return svwhilelt_b16_s64(0, n); }
  static Bits load_bits(const F16* p) { return svld1_u16(all(), &p->bits); }
  static Bits load_bits(const F16* p, std::int64_t n) { return svld1_u16(first(n), &p->bits); }
  static Reg load(const F16* p, std::int64_t n) { return svreinterpret_f16_u16(load_bits(p, n)); }
  static Reg load(const F16* p) { return svreinterpret_f16_u16(svld1_u16(all(), &p->bits)); }
  static void store(F16* p, Reg x) { svst1_u16(all(), &p->bits, svreinterpret_u16_f16(x)); }
  static Reg set1(F16 x) { return svreinterpret_f16_u16(svdup_u16(x.bits)); }
  static Reg zero() { return svreinterpret_f16_u16(svdup_u16(0)); }
  static Reg add(Reg a, Reg b) { return svadd_f16_x(all(), a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return svmla_f16_x(all(), c, a, b); }
  /// x * 2^n of each lane.
  static Reg scale(Reg x, svint16_t n) { return svscale_f16_x(all(), x, n); }
  static Bits magnitude(Bits x) { return svand_n_u16_x(all(), x, 0x7fff); }

  /// Lanes 0 to 15 and 16 to 31 as f32, exact.
  static Wide low(Reg x) { return widen(svunpklo_u32(svreinterpret_u16_f16(x))); }
  static Wide high(Reg x) { return widen(svunpkhi_u32(svreinterpret_u16_f16(x))); }
  /// Both rounded to nearest even.
  static Bits join(Wide low, Wide high) {
    return svuzp1_u16(svreinterpret_u16_f16(svcvt_f16_f32_x(svptrue_b32(), low)),
                      svreinterpret_u16_f16(svcvt_f16_f32_x(svptrue_b32(), high)));
  }

  /// 16 rows of 32 columns: register i then holds columns 2i and 2i + 1, each of 16 rows. Each perfect
  /// shuffle of all 512 elements rotates their indices (4 bits of row, 5 of column) by one bit.
  [[gnu::always_inline]] static void transpose(Bits (&x)[kTurned]) {
    Bits t[kTurned];
    shuffle(x, t);
    shuffle(t, x);
    shuffle(x, t);
    shuffle(t, x);
  }
  /// Columns [0, columns) of the transposed rows, `rows` elements of each, `pitch` elements apart.
  static void store_columns(F16* to, std::int64_t pitch, std::int64_t rows, std::int64_t columns,
                            const Bits (&x)[kTurned]) {
    const svbool_t low = first(rows), high = svbic_b_z(all(), first(kTurned + rows), first(kTurned));
#pragma GCC unroll 16
    for (int i = 0; i < kTurned; ++i) {
      if (2 * i < columns) svst1_u16(low, &to[2 * i * pitch].bits, x[i]);
      if (2 * i + 1 < columns) svst1_u16(high, &to[(2 * i + 1) * pitch].bits - kTurned, x[i]);
    }
  }

 private:
  static Wide widen(svuint32_t x) {
    return svcvt_f32_f16_x(svptrue_b32(), svreinterpret_f16_u32(x));
  }
  static void shuffle(const Bits (&x)[kTurned], Bits (&y)[kTurned]) {
#pragma GCC unroll 16
    for (int i = 0; i < 8; ++i) {
      y[2 * i] = svzip1_u16(x[i], x[i + 8]);
      y[2 * i + 1] = svzip2_u16(x[i], x[i + 8]);
    }
  }
};

}  // namespace
}  // namespace kumiko::kernels
