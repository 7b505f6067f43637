// SPDX-License-Identifier: Apache-2.0
#include <cstddef>

#include "kernels/pack/arm_sve512_transpose.h"
#include "kernels/pack/pack.h"
#include "kernels/simd/sve512.h"

namespace kumiko::kernels {
namespace {

// Known to arm_sve512_value.S.
static_assert(offsetof(PackValueArgs, stride) == 8 && offsetof(PackValueArgs, rows) == 16 &&
              offsetof(PackValueArgs, dim) == 24 && offsetof(PackValueArgs, dst) == 32);
// Known to arm_sve512_key.S, which takes one panel: at most 8 rows, their stride in bytes.
static_assert(offsetof(PackKeyArgs, stride) == 8 && offsetof(PackKeyArgs, rows) == 16 &&
              offsetof(PackKeyArgs, dim) == 24 && offsetof(PackKeyArgs, dst) == 32);
static_assert(Sve512::kMr == 8 && Sve512::kLanes == 16);

}  // namespace
}  // namespace kumiko::kernels

extern "C" {
bool pack_value_f32_sve512(const kumiko::kernels::PackValueArgs*) noexcept;
bool pack_value_bf16_sve512(const kumiko::kernels::PackValueArgs*) noexcept;
bool pack_value_f16_sve512(const kumiko::kernels::PackValueArgs*) noexcept;
void pack_key_f32_sve512(const kumiko::kernels::PackKeyArgs*) noexcept;
}

namespace kumiko::kernels {
namespace {

constexpr std::int64_t kLanes = Sve512::kLanes;

/// Keys of 16-bit elements, two panels at a time.
void pack_key_panels(const PackKeyArgs& args, void (*turn)(const TransposeArgs*) noexcept) {
  const auto* src = static_cast<const std::uint16_t*>(args.src);
  for (std::int64_t j = 0; j < args.rows; j += kLanes) {
    const std::int64_t used = args.rows - j < kLanes ? args.rows - j : kLanes;
    const void* rows[kLanes];
    for (std::int64_t i = 0; i < kLanes; ++i) rows[i] = src + (i < used ? j + i : j) * args.stride;
    float* const panel = static_cast<float*>(args.dst) + j * args.dim;
    TransposeArgs turned{rows, used, args.dim, panel, {}, 1.0f};
    turned.second = panel + Sve512::kMr * args.dim;
    turn(&turned);
  }
}

}  // namespace

#define KUMIKO_PACK_SVE512(name, query, value)            \
  void name##_query(const PackQueryArgs& args) noexcept { \
    turn_panel(args, nullptr, query);                     \
  }                                                       \
  bool name##_value(const PackValueArgs& args) noexcept { \
    return value(&args);                                  \
  }
KUMIKO_PACK_SVE512(pack_f32_sve512, pack_query_f32_sve512, pack_value_f32_sve512)
KUMIKO_PACK_SVE512(pack_bf16_sve512, pack_query_bf16_sve512, pack_value_bf16_sve512)
KUMIKO_PACK_SVE512(pack_f16_sve512, pack_query_f16_sve512, pack_value_f16_sve512)

void pack_bf16_sve512_key(const PackKeyArgs& args) noexcept {
  pack_key_panels(args, pack_key_bf16_sve512);
}
void pack_f16_sve512_key(const PackKeyArgs& args) noexcept {
  pack_key_panels(args, pack_key_f16_sve512);
}
// One panel at a time in assembly: 0.24 cycles an element in the narrow model of the core. Transposing 256
// elements by ZIP takes 64 ZIPs and 32 stores, all on one pipe: 0.38 at best.
void pack_f32_sve512_key(const PackKeyArgs& args) noexcept {
  constexpr std::int64_t kMr = Sve512::kMr, kFloat = sizeof(float);
  const float* const src = static_cast<const float*>(args.src);
  for (std::int64_t j = 0; j < args.rows; j += kMr) {
    const std::int64_t rows = args.rows - j < kMr ? args.rows - j : kMr;
    const PackKeyArgs panel{src + j * args.stride, args.stride * kFloat, rows, args.dim,
                            static_cast<float*>(args.dst) + j * args.dim};
    pack_key_f32_sve512(&panel);
  }
}

}  // namespace kumiko::kernels
