#include "kernels/pipelines/pipeline.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace kumiko::kernels {

#if defined(__x86_64__)
constexpr unsigned kDefaultMxcsr = 0x1f80;
FloatState::FloatState() noexcept : saved_(_mm_getcsr()) {
  _mm_setcsr(kDefaultMxcsr);
}
FloatState::~FloatState() {
  _mm_setcsr(static_cast<unsigned>(saved_));
}
#elif defined(__aarch64__)
FloatState::FloatState() noexcept {
  asm volatile("mrs %0, fpcr" : "=r"(saved_));
  asm volatile("msr fpcr, %0" ::"r"(std::uint64_t{0}));
}
FloatState::~FloatState() {
  asm volatile("msr fpcr, %0" ::"r"(saved_));
}
#else
FloatState::FloatState() noexcept : saved_(0) {}
FloatState::~FloatState() = default;
#endif

}  // namespace kumiko::kernels
