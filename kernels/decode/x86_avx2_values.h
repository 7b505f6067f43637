// SPDX-License-Identifier: Apache-2.0
// BlockValues of values.h on AVX2: four rows by three vectors of v_dim, 12 sums where values.h has 8, and all
// passes over some keys in one function. Zen 3, 256 keys, D = 128, in L2, the least of 9 runs, alternating
// with values.h alone: 4 rows f32 4.8 us there and 4.0 here, bf16 5.0 and 3.9, f16 4.2 and 3.6; 8 rows bf16
// 9.7 and 8.0. From memory one and two rows are no faster here.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/decode/x86_values.h"
#include "kernels/simd/avx2.h"

namespace kumiko::kernels {
namespace {

/// 12 sums, three values and a weight take all 16 registers; g++ 12 spills three of the sums.
#define KUMIKO_ADD_KEY(load_value) \
  asm volatile(load_value("0", "%%ymm0") load_value("1", "%%ymm1") load_value("2", "%%ymm2")             \
               "vbroadcastss (%[p]), %%ymm3\n"                                                           \
               KUMIKO_ADD_ROW("%0", "%1", "%2") "vbroadcastss (%[p],%[step]), %%ymm3\n"                  \
               KUMIKO_ADD_ROW("%3", "%4", "%5") "vbroadcastss (%[p],%[step],2), %%ymm3\n"                \
               KUMIKO_ADD_ROW("%6", "%7", "%8") "vbroadcastss (%[last]), %%ymm3\n"                       \
               KUMIKO_ADD_ROW("%9", "%10", "%11")                                                        \
               : "+x"(sum[0][0]), "+x"(sum[0][1]), "+x"(sum[0][2]), "+x"(sum[1][0]), "+x"(sum[1][1]),    \
                 "+x"(sum[1][2]), "+x"(sum[2][0]), "+x"(sum[2][1]), "+x"(sum[2][2]), "+x"(sum[3][0]),    \
                 "+x"(sum[3][1]), "+x"(sum[3][2])                                                        \
               : [v] "r"(v), [p] "r"(p), [step] "r"(step * 4), [last] "r"(last)                          \
               : "xmm0", "xmm1", "xmm2", "xmm3", "memory")
#define KUMIKO_ADD_ROW(a, b, c)                                                                            \
  "vfmadd231ps %%ymm0, %%ymm3, " a "\n vfmadd231ps %%ymm1, %%ymm3, " b "\n vfmadd231ps %%ymm2, %%ymm3, " c \
  "\n"
#define KUMIKO_LOAD_F32(n, to) "vmovups 32*" n "(%[v]), " to "\n"
#define KUMIKO_LOAD_BF16(n, to) "vpmovzxwd 16*" n "(%[v]), " to "\n vpslld $16, " to ", " to "\n"
#define KUMIKO_LOAD_F16(n, to) "vcvtph2ps 16*" n "(%[v]), " to "\n"

template <class T>
struct ValueSums<Avx2, T, 4, 3> {
  __m256 sum[4][3];
  static constexpr bool kTakesWeights = false;

  template <bool kWeighs>
  [[gnu::always_inline]] void add(const T* v, const float* p, const float* last, std::int64_t step) {
    if constexpr (std::is_same_v<T, float>) {
      KUMIKO_ADD_KEY(KUMIKO_LOAD_F32);
    } else if constexpr (std::is_same_v<T, Bf16>) {
      KUMIKO_ADD_KEY(KUMIKO_LOAD_BF16);
    } else {
      KUMIKO_ADD_KEY(KUMIKO_LOAD_F16);
    }
  }
};
#undef KUMIKO_ADD_KEY
#undef KUMIKO_ADD_ROW
#undef KUMIKO_LOAD_F32
#undef KUMIKO_LOAD_BF16
#undef KUMIKO_LOAD_F16

template <class T>
struct BlockValues<Avx2, T> : ValuesByBlocks<Avx2, T, 3> {};

}  // namespace
}  // namespace kumiko::kernels
