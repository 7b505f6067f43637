// SPDX-License-Identifier: Apache-2.0
// The spec of pack.h in plain C++, for MR = 4.
#include <cmath>

#include "kernels/pack/pack.h"

namespace kumiko::kernels {
namespace {

constexpr std::int64_t kMr = 4;

template <class T>
void query(const PackQueryArgs& args) {
  for (std::int64_t d = 0; d < args.dim; ++d) {
    for (std::int64_t n = 0; n < args.nr; ++n) {
      static_cast<float*>(args.dst)[d * args.nr + n] =
          n < args.rows_used ? to_float(static_cast<const T*>(args.rows[n])[d]) * args.scale : 0.0f;
    }
  }
}

template <class T>
void key(const PackKeyArgs& args) {
  const T* src = static_cast<const T*>(args.src);
  for (std::int64_t panel = 0; panel * kMr < args.rows; ++panel) {
    for (std::int64_t d = 0; d < args.dim; ++d) {
      for (std::int64_t m = 0; m < kMr; ++m) {
        const std::int64_t j = panel * kMr + m;
        static_cast<float*>(args.dst)[(panel * args.dim + d) * kMr + m] =
            j < args.rows ? to_float(src[j * args.stride + d]) : 0.0f;
      }
    }
  }
}

template <class T>
bool value(const PackValueArgs& args) {
  const T* src = static_cast<const T*>(args.src);
  bool finite = true;
  for (std::int64_t panel = 0; panel * kMr < args.dim; ++panel) {
    for (std::int64_t j = 0; j < args.rows; ++j) {
      for (std::int64_t m = 0; m < kMr; ++m) {
        const std::int64_t d = panel * kMr + m;
        const float x = d < args.dim ? to_float(src[j * args.stride + d]) : 0.0f;
        finite = finite && std::isfinite(x);
        static_cast<float*>(args.dst)[(panel * args.rows + j) * kMr + m] = x;
      }
    }
  }
  return finite;
}

}  // namespace

#define KUMIKO_PACK_REFERENCE(name, T)                    \
  void name##_query(const PackQueryArgs& args) noexcept { \
    query<T>(args);                                       \
  }                                                       \
  void name##_key(const PackKeyArgs& args) noexcept {     \
    key<T>(args);                                         \
  }                                                       \
  bool name##_value(const PackValueArgs& args) noexcept { \
    return value<T>(args);                                \
  }
KUMIKO_PACK_REFERENCE(pack_f32_reference, float)
KUMIKO_PACK_REFERENCE(pack_bf16_reference, Bf16)
KUMIKO_PACK_REFERENCE(pack_f16_reference, F16)

}  // namespace kumiko::kernels
