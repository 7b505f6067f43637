// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#include <sys/prctl.h>
#endif

namespace kumiko::kernels {

const char* name(Isa isa) {
  switch (isa) {
    case Isa::avx512_bf16:
      return "avx512_bf16";
    case Isa::avx512:
      return "avx512";
    case Isa::avx2:
      return "avx2";
    case Isa::sve512:
      return "sve512";
    case Isa::neon:
      return "neon";
    case Isa::reference:
      break;
  }
  return "reference";
}

const char* requirement(Isa isa) {
  switch (isa) {
    case Isa::avx512_bf16:
      return "AVX-512 F, BW, DQ, VL and BF16";
    case Isa::avx512:
      return "AVX-512 F, BW, DQ and VL";
    case Isa::avx2:
      return "AVX2, FMA and F16C";
    case Isa::sve512:
      return "AArch64 with SVE, vectors of exactly 512 bits and half-precision arithmetic";
    case Isa::neon:
      return "AArch64 with Advanced SIMD";
    case Isa::reference:
      break;
  }
  return "nothing";
}

std::optional<Isa> parse_isa(std::string_view text) {
  for (Isa isa : kIsas) {
    if (text == name(isa)) return isa;
  }
  return std::nullopt;
}

#if defined(__x86_64__)
namespace {

// Clang 14 does not know the name "f16c". Bit 29 of ECX, leaf 1 (Intel SDM, volume 2A, CPUID).
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx >> 29 & 1u) != 0;
}

// Clang 14 and g++ 12 do not know the name "avxvnni". Bit 4 of EAX, leaf 7, subleaf 1.
bool has_avx_vnni() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax >> 4 & 1u) != 0;
}

}  // namespace
#elif defined(__aarch64__) && defined(__linux__)
namespace {

// The kernels' code is for one vector length: that of the calling thread, which the threads and programs it
// starts inherit (prctl(2), PR_SVE_GET_VL: the low 16 bits hold bytes). Half precision is checked because
// FPCR.FZ16 and f16 arithmetic come with it; FEXPA belongs to SVE itself.
bool has_sve512() {
  constexpr unsigned long kHalf = 1ul << 9, kSve = 1ul << 22;  // HWCAP_FPHP and HWCAP_SVE
  constexpr int kGetVectorLength = 51;                         // PR_SVE_GET_VL, which older headers lack
  constexpr unsigned long kWanted = kHalf | kSve;
  if ((getauxval(AT_HWCAP) & kWanted) != kWanted) return false;
  const int length = prctl(kGetVectorLength);
  return length >= 0 && (length & 0xffff) == 64;
}

}  // namespace
#endif

bool host_has(Extension extension) {
  if (extension == Extension::none) return true;
#if defined(__x86_64__)
  const IsaSet isas = host_isas();
  if (extension == Extension::avx_vnni) return (isas & bit(Isa::avx2)) != 0 && has_avx_vnni();
  if (extension == Extension::avx512_vnni)
    return (isas & bit(Isa::avx512)) != 0 && __builtin_cpu_supports("avx512vnni");
#elif defined(__aarch64__) && defined(__linux__)
  constexpr unsigned long kDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
  if (extension == Extension::neon_dot) return (getauxval(AT_HWCAP) & kDotProduct) != 0;
#endif
  return false;
}

IsaSet host_isas() {
  IsaSet set = bit(Isa::reference);
#if defined(__x86_64__)
  // The compiler's probe also asks XGETBV whether the system saves ymm and zmm state.
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()) {
    set |= bit(Isa::avx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      set |= bit(Isa::avx512);
      if (__builtin_cpu_supports("avx512bf16")) set |= bit(Isa::avx512_bf16);
    }
  }
#elif defined(__aarch64__)
  set |= bit(Isa::neon);  // Advanced SIMD with f32 FMA is part of the architecture
#if defined(__linux__)
  if (has_sve512()) set |= bit(Isa::sve512);
#endif
#endif
  return set;
}

Isa best_isa(IsaSet available, Core core) {
  for (Isa isa : kIsas) {
    // On these cores VDPBF16PS has half the rate of f32 multiply-adds; on Zen 4 and 5 it has twice the rate.
    // Time with f32 products over time with VDPBF16PS (Emerald Rapids, one thread, bf16, D = 128): prefill
    // 0.53 and 0.55 (1024, 4096), decode of 16384 keys 0.96 (GQA 32/8) and 0.7 to 0.83 (MHA).
    if (isa == Isa::avx512_bf16 && core == Core::sapphire_rapids) continue;
    if (available & bit(isa)) return isa;
  }
  return Isa::reference;
}

}  // namespace kumiko::kernels
