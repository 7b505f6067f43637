// The spec of pack.h in plain C++, for MR = 4.
#include <cmath>

#include "kernels/pack/pack.h"

namespace kumiko::kernels {

constexpr std::int64_t kMr = 4;

void pack_f32_reference_query(const PackQueryArgs& args) noexcept {
  for (std::int64_t d = 0; d < args.dim; ++d) {
    for (std::int64_t n = 0; n < args.nr; ++n) {
      args.dst[d * args.nr + n] = n < args.rows_used ? args.rows[n][d] * args.scale : 0.0f;
    }
  }
}

void pack_f32_reference_key(const PackKeyArgs& args) noexcept {
  for (std::int64_t panel = 0; panel * kMr < args.rows; ++panel) {
    for (std::int64_t d = 0; d < args.dim; ++d) {
      for (std::int64_t m = 0; m < kMr; ++m) {
        const std::int64_t j = panel * kMr + m;
        args.dst[(panel * args.dim + d) * kMr + m] = j < args.rows ? args.src[j * args.stride + d] : 0.0f;
      }
    }
  }
}

bool pack_f32_reference_value(const PackValueArgs& args) noexcept {
  bool finite = true;
  for (std::int64_t panel = 0; panel * kMr < args.dim; ++panel) {
    for (std::int64_t j = 0; j < args.rows; ++j) {
      for (std::int64_t m = 0; m < kMr; ++m) {
        const std::int64_t d = panel * kMr + m;
        const float x = d < args.dim ? args.src[j * args.stride + d] : 0.0f;
        finite = finite && std::isfinite(x);
        args.dst[(panel * args.rows + j) * kMr + m] = x;
      }
    }
  }
  return finite;
}

}  // namespace kumiko::kernels
