// SPDX-License-Identifier: Apache-2.0
#include "kernels/float_state.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace kumiko::kernels {

#if defined(__x86_64__)
constexpr unsigned kDefaultMxcsr = 0x1f80;
FloatState::FloatState(Isa) noexcept : saved_(_mm_getcsr()) {
  _mm_setcsr(kDefaultMxcsr);
}
FloatState::~FloatState() {
  _mm_setcsr(static_cast<unsigned>(saved_));
}
#elif defined(__aarch64__)
// FPCR has MXCSR's control bits (RMode, FZ, trap enables; also DN), FPSR its sticky flags. Both fit in 32
// bits: FPCR is reserved above bit 31. 0 is the default state.
constexpr std::uint64_t kFlushF32 = 1u << 24, kFlushF16 = 1u << 19;
FloatState::FloatState(Isa isa) noexcept {
  std::uint64_t control, status;
  asm volatile("mrs %0, fpcr" : "=r"(control));
  asm volatile("mrs %0, fpsr" : "=r"(status));
  asm volatile("msr fpcr, %0" ::"r"(flushes_subnormals(isa) ? kFlushF32 | kFlushF16 : std::uint64_t{0}));
  saved_ = control | status << 32;
}
FloatState::~FloatState() {
  asm volatile("msr fpcr, %0" ::"r"(saved_ & 0xffffffffu));
  asm volatile("msr fpsr, %0" ::"r"(saved_ >> 32));
}
#else
FloatState::FloatState(Isa) noexcept : saved_(0) {}
FloatState::~FloatState() = default;
#endif

}  // namespace kumiko::kernels
