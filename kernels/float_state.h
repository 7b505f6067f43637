// SPDX-License-Identifier: Apache-2.0
// The floating-point state that kernels run in.
#pragma once

#include <cstdint>

#include "kernels/cpu.h"

namespace kumiko::kernels {

/// True for an ISA whose kernels run with subnormals flushed: subnormal operands count as 0, and a result
/// below 2^-126 becomes 0. Without flushing (FPCR.FZ for f32, FZ16 for f16) an A64FX takes about 90 cycles
/// for each operation with a subnormal.
constexpr bool flushes_subnormals(Isa isa) {
  return isa == Isa::sve512;
}

/// Sets the floating-point state that every kernel of an ISA assumes (round to nearest, exceptions masked,
/// subnormals kept or flushed as above) and restores the caller's, sticky flags included: the bits of a
/// result must not depend on whose thread computed it.
class FloatState {
 public:
  /// Code outside the kernels runs as the reference does: subnormals are kept.
  explicit FloatState(Isa isa = Isa::reference) noexcept;
  ~FloatState();
  FloatState(const FloatState&) = delete;
  FloatState& operator=(const FloatState&) = delete;

 private:
  std::uint64_t saved_;
};

}  // namespace kumiko::kernels
