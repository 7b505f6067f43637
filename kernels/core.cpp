// SPDX-License-Identifier: Apache-2.0
#include "kernels/core.h"

#if defined(__x86_64__)
#include <cpuid.h>

#include <cstring>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace kumiko::kernels {

const char* name(Core core) {
  switch (core) {
    case Core::zen2:
      return "zen2";
    case Core::zen3:
      return "zen3";
    case Core::zen4:
      return "zen4";
    case Core::zen5:
      return "zen5";
    case Core::skylake_x:
      return "skylake_x";
    case Core::ice_lake:
      return "ice_lake";
    case Core::sapphire_rapids:
      return "sapphire_rapids";
    case Core::a64fx:
      return "a64fx";
    case Core::neoverse:
      return "neoverse";
    case Core::apple:
      return "apple";
    case Core::generic:
      break;
  }
  return "generic";
}

Core core_of(Vendor vendor, unsigned family, unsigned model) {
  if (vendor == Vendor::amd) {
    if (family == 0x17 && model >= 0x30) return Core::zen2;
    if (family == 0x19) {
      const bool is_zen4 =
          (model >= 0x10 && model <= 0x1f) || (model >= 0x60 && model <= 0x7f) || model >= 0xa0;
      return is_zen4 ? Core::zen4 : Core::zen3;
    }
    if (family == 0x1a) return Core::zen5;
  }
  if (vendor == Vendor::intel && family == 6) {
    switch (model) {
      case 0x55:
        return Core::skylake_x;
      case 0x6a:
      case 0x6c:
        return Core::ice_lake;
      case 0x8f:
      case 0xcf:
      case 0xad:
      case 0xae:
        return Core::sapphire_rapids;
      default:
        break;
    }
  }
  return Core::generic;
}

Core core_of(std::uint64_t midr) {
  constexpr unsigned kArm = 0x41, kFujitsu = 0x46, kApple = 0x61;
  const unsigned implementer = midr >> 24 & 0xff, part = midr >> 4 & 0xfff;
  if (implementer == kApple) return Core::apple;
  if (implementer == kFujitsu && part == 0x001) return Core::a64fx;
  const bool is_neoverse = part == 0xd0c || part == 0xd40 || part == 0xd49 || part == 0xd4f;
  return implementer == kArm && is_neoverse ? Core::neoverse : Core::generic;
}

#if defined(__x86_64__)
Core host_core() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__get_cpuid(0, &eax, &ebx, &ecx, &edx)) return Core::generic;
  const unsigned text[] = {ebx, edx, ecx};
  char maker[12];
  std::memcpy(maker, text, sizeof maker);
  const Vendor vendor = std::memcmp(maker, "AuthenticAMD", 12) == 0   ? Vendor::amd
                        : std::memcmp(maker, "GenuineIntel", 12) == 0 ? Vendor::intel
                                                                      : Vendor::other;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return Core::generic;
  const unsigned family = eax >> 8 & 0xf, model = eax >> 4 & 0xf;
  return core_of(vendor, family == 0xf ? family + (eax >> 20 & 0xff) : family,
                 family == 0xf || family == 6 ? model + (eax >> 12 & 0xf0) : model);
}
#elif defined(__aarch64__) && defined(__linux__)
Core host_core() {
  constexpr unsigned long kCpuid = 1ul << 11;  // HWCAP_CPUID: the kernel lets programs read the register
  if (!(getauxval(AT_HWCAP) & kCpuid)) return Core::generic;
  std::uint64_t midr = 0;
  asm("mrs %0, midr_el1" : "=r"(midr));
  return core_of(midr);
}
#else
Core host_core() {
  return Core::generic;
}
#endif

}  // namespace kumiko::kernels
