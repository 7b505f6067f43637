#include "kernels/pack/vector.h"
#include "kernels/simd/avx512_bf16.h"

namespace kumiko::kernels {

void pack_bf16_avx512_bf16_query(const PackQueryArgs& args) noexcept {
  pack_query<Avx512Bf16, Bf16>(args);
}
void pack_bf16_avx512_bf16_key(const PackKeyArgs& args) noexcept {
  pack_key<Avx512Bf16, Bf16>(args);
}

/// Two rows a step, interleaved. As in vector.h keys are inside, so that panels are written front to back.
bool pack_bf16_avx512_bf16_value(const PackValueArgs& args) noexcept {
  using V = Avx512Bf16;
  constexpr int kMr = V::kMr;
  const std::int64_t pairs = (args.rows + 1) / 2;
  const Bf16* const values = static_cast<const Bf16*>(args.src);
  const auto widened = [](const Bf16* row, std::int64_t dims) {
    const __mmask16 first = dims >= V::kLanes ? __mmask16{0xffff} : static_cast<__mmask16>((1u << dims) - 1u);
    return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first, row));
  };
  __mmask32 bad = 0;
  for (std::int64_t d = 0; d < args.dim; d += V::kLanes) {
    const std::int64_t dims = args.dim - d;
    const Bf16* src = values + d;
    float* low = static_cast<float*>(args.dst) + d * pairs;
    float* high = low + pairs * kMr;
    for (std::int64_t j = 0; j < args.rows; j += 2, src += 2 * args.stride, low += kMr, high += kMr) {
      __builtin_prefetch(src + 32 * args.stride, 0, 3);
      __builtin_prefetch(src + 33 * args.stride, 0, 3);
      V::Int x = widened(src, dims);
      if (j + 1 < args.rows) x = _mm512_or_si512(x, _mm512_slli_epi32(widened(src + args.stride, dims), 16));
      const V::Reg pair = _mm512_castsi512_ps(x);
      bad |= V::not_finite(pair);
      if (dims > kMr) {
        V::store_halves(low, high, pair);
      } else {
        V::store_first(low, kMr, pair);
      }
    }
  }
  return bad == 0;
}

}  // namespace kumiko::kernels
