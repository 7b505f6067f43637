// SPDX-License-Identifier: Apache-2.0
// The spec of state.h in plain C++.
#include <cmath>
#include <limits>

#include "kernels/simd/scalar.h"
#include "kernels/state/state.h"

namespace kumiko::kernels {
namespace {

void merge(float& m, float& l, float from_m, float from_l, float* o, const float* from_o, std::int64_t dim,
           std::int64_t stride) {
  const float top = from_m > m ? from_m : m;
  const float shift = top == -std::numeric_limits<float>::infinity() ? 0.0f : top;
  const float a = exp2_scalar(m - shift), b = exp2_scalar(from_m - shift);
  m = top;
  l = std::fma(from_l, b, l * a);
  for (std::int64_t d = 0; d < dim; ++d) o[d * stride] = std::fma(from_o[d * stride], b, o[d * stride] * a);
}

}  // namespace

void state_f32_reference_merge_tile(const MergeTileArgs& args) noexcept {
  for (std::int64_t n = 0; n < args.nr; ++n) {
    merge(args.into.m[n], args.into.l[n], args.from.m[n], args.from.l[n], args.into.o + n, args.from.o + n,
          args.dim, args.nr);
  }
}

void state_f32_reference_merge_row(const MergeRowArgs& args) noexcept {
  merge(*args.m, *args.l, args.from_m, args.from_l, args.o, args.from_o, args.dim, 1);
}

}  // namespace kumiko::kernels
