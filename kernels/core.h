// SPDX-License-Identifier: Apache-2.0
// The kind of core this runs on, where it matters for speed: processors with the same instruction set differ
// in caches, miss buffers and ports.
#pragma once

#include <cstdint>

namespace kumiko::kernels {

enum class Core : std::uint8_t {
  generic,  ///< Any other.
  zen2,
  zen3,
  zen4,
  zen5,
  skylake_x,        ///< And Cascade Lake, Cooper Lake.
  ice_lake,         ///< Servers.
  sapphire_rapids,  ///< And Emerald and Granite Rapids.
  a64fx,
  neoverse,  ///< N1, N2, V1, V2.
  apple,
};
inline constexpr Core kCores[] = {Core::generic, Core::zen2,      Core::zen3,     Core::zen4,
                                  Core::zen5,    Core::skylake_x, Core::ice_lake, Core::sapphire_rapids,
                                  Core::a64fx,   Core::neoverse,  Core::apple};

const char* name(Core core);

enum class Vendor : std::uint8_t { other, amd, intel };
/// From the displayed family and model (AMD APM volume 3, CPUID Fn0000_0001_EAX; Intel SDM volume 2A, CPUID).
Core core_of(Vendor vendor, unsigned family, unsigned model);
/// From the main ID register (Arm ARM, MIDR_EL1: implementer in bits 24-31, part in bits 4-15).
Core core_of(std::uint64_t midr);
/// The kind of core this process runs on.
Core host_core();

}  // namespace kumiko::kernels
