// SPDX-License-Identifier: Apache-2.0
#include "kernels/int8_scores/pack.h"
#include "kernels/simd/sve512.h"

namespace kumiko::kernels {
namespace {

struct Bytes : ScalarBytes {
  using V = Sve512;
  static V::Reg load(const std::int8_t* row) { return svreinterpret_f32_s8(svld1_s8(svptrue_b8(), row)); }
};

}  // namespace

KUMIKO_INT8_PANELS(int8_scores_sve512, Bytes, Bytes, 8, false)

}  // namespace kumiko::kernels
