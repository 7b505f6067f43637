// SPDX-License-Identifier: Apache-2.0
// Calls a kernel with known numbers in all registers that it must preserve.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#if defined(__x86_64__) || defined(__aarch64__)

extern "C" void call_with_canaries(void (*function)(), const void* args, const std::uint64_t* in,
                                   std::uint64_t* out);

namespace kumiko::test {

#if defined(__aarch64__)
inline constexpr const char* kRegisters[] = {"x19", "x20", "x21", "x22", "x23", "x24", "x25",
                                             "x26", "x27", "x28", "x29", "d8",  "d9",  "d10",
                                             "d11", "d12", "d13", "d14", "d15"};
#else
inline constexpr const char* kRegisters[] = {"rbx", "rbp", "r12", "r13", "r14", "r15"};
#endif
using Registers = std::array<std::uint64_t, std::size(kRegisters)>;

#if defined(__aarch64__)
inline constexpr std::uint64_t kUnusualControl = 1u << 22 | 1u << 24;  // round up, flush to zero
inline std::uint64_t control() {
  std::uint64_t value;
  asm volatile("mrs %0, fpcr" : "=r"(value));
  return value;
}
inline void set_control(std::uint64_t value) {
  asm volatile("msr fpcr, %0" ::"r"(value));
}
#else
inline constexpr std::uint64_t kUnusualControl = 0x1f80 | 0x4000 | 0x8000;
inline std::uint64_t control() {
  return _mm_getcsr() & ~0x3fu;  // without the sticky flags
}
inline void set_control(std::uint64_t value) {
  _mm_setcsr(static_cast<unsigned>(value));
}

/// The upper halves of the AVX registers, as they are; 0 without AVX. If they are not 0, each change from an
/// AVX instruction to an SSE one and back takes 117 ns in the place of 1.4 (Zen 3, a loop of seven
/// instructions), and the code around the kernels is SSE.
inline std::array<std::uint64_t, 2 * 16> upper_halves() {
  std::array<std::uint64_t, 2 * 16> upper{};
  if (!__builtin_cpu_supports("avx")) return upper;
  asm volatile(
      ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n\t"
      "vextractf128 $1, %%ymm\\n, 16 * \\n(%0)\n\t"
      ".endr\n\t"
      "vzeroupper" ::"r"(upper.data())
      : "memory");
  return upper;
}
#endif

// `any`: of kernels that are compiled on x86, because GCC leaves 0 there from -O2 on alone.
enum class UpperHalves { zero, any };

// Calls function(&args) with canaries in every register, and checks them afterwards. A reference is passed as
// a pointer.
template <class Function, class Args>
void call_and_check(Function* function, const Args& args,
                    [[maybe_unused]] UpperHalves wanted = UpperHalves::zero) {
  Registers canaries{}, found{};
  for (std::size_t i = 0; i < canaries.size(); ++i) canaries[i] = 0xc0ffee00c0ffee00u + i;
  const std::uint64_t before = control();
  set_control(kUnusualControl);
  call_with_canaries(reinterpret_cast<void (*)()>(function), &args, canaries.data(), found.data());
#if defined(__x86_64__)
  const auto upper = upper_halves();
  if (wanted == UpperHalves::zero) {
    EXPECT_EQ(upper, decltype(upper){}) << "upper halves of vector registers";
  }
#endif
  const std::uint64_t after = control();
  set_control(before);
  for (std::size_t i = 0; i < canaries.size(); ++i)
    EXPECT_EQ(found[i], canaries[i]) << kRegisters[i] << std::hex << " holds " << found[i];
  EXPECT_EQ(after, kUnusualControl) << "floating-point control";
}

}  // namespace kumiko::test

#endif
