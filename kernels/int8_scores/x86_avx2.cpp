// SPDX-License-Identifier: Apache-2.0
#include "kernels/int8_scores/pack.h"
#include "kernels/simd/avx2.h"

namespace kumiko::kernels {
namespace {

struct Bytes : ScalarBytes {
  using V = Avx2;
  static __m256 load(const std::int8_t* row) { return _mm256_loadu_ps(reinterpret_cast<const float*>(row)); }
};
struct Unsigned : ScalarUnsigned {
  using V = Avx2;
  static __m256 load(const std::int8_t* row) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row));
    return _mm256_castsi256_ps(_mm256_xor_si256(bytes, _mm256_set1_epi8(-128)));
  }
};
struct Pairs : ScalarPairs {
  using V = Avx2;
  static __m256 load(const std::int8_t* row) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row));
    return _mm256_castsi256_ps(_mm256_cvtepi8_epi16(bytes));
  }
};

}  // namespace

KUMIKO_INT8_PANELS(int8_scores_avx2_vnni, Unsigned, Bytes, 4, true)
KUMIKO_INT8_PANELS(int8_scores_avx2, Pairs, Pairs, 4, false)

}  // namespace kumiko::kernels
