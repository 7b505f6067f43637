// SPDX-License-Identifier: Apache-2.0
#include "kernels/int8_scores/pack.h"
#include "kernels/simd/avx512.h"

namespace kumiko::kernels {
namespace {

struct Bytes : ScalarBytes {
  using V = Avx512;
  static __m512 load(const std::int8_t* row) { return _mm512_loadu_ps(row); }
};
struct Unsigned : ScalarUnsigned {
  using V = Avx512;
  static __m512 load(const std::int8_t* row) {
    return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_loadu_si512(row), _mm512_set1_epi8(-128)));
  }
};
struct Pairs : ScalarPairs {
  using V = Avx512;
  static __m512 load(const std::int8_t* row) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row));
    return _mm512_castsi512_ps(_mm512_cvtepi8_epi16(bytes));
  }
};

}  // namespace

KUMIKO_INT8_PANELS(int8_scores_avx512_vnni, Unsigned, Bytes, 8, true)
KUMIKO_INT8_PANELS(int8_scores_avx512, Pairs, Pairs, 8, false)

}  // namespace kumiko::kernels
