// SPDX-License-Identifier: Apache-2.0
// Instruction sets as kernel tables name them, and those that this machine has.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "kernels/core.h"

namespace kumiko::kernels {

/// `reference` is plain C++ and runs everywhere: the last row of every table.
enum class Isa : std::uint8_t { reference = 0, avx2 = 1, avx512 = 2, neon = 3, avx512_bf16 = 4, sve512 = 5 };
/// Every ISA, preferred ones first.
inline constexpr Isa kIsas[] = {Isa::avx512_bf16, Isa::avx512, Isa::avx2,
                                Isa::sve512,      Isa::neon,   Isa::reference};
/// One more than the largest value: the size of an array indexed by ISA.
inline constexpr std::size_t kIsaValues = 6;
/// The ISA whose rows are used where a table has none for `isa` itself: an extension has rows only where it
/// is faster.
constexpr Isa base_of(Isa isa) {
  return isa == Isa::avx512_bf16 ? Isa::avx512 : isa;
}

/// Integer dot products, which extend an ISA on some machines. They change no bit of a result, so the library
/// takes the first row that the machine can run; there is no option for it.
enum class Extension : std::uint8_t { none, avx_vnni, avx512_vnni, neon_dot };
bool host_has(Extension extension);

using IsaSet = std::uint32_t;
constexpr IsaSet bit(Isa isa) {
  return IsaSet{1} << static_cast<unsigned>(isa);
}

const char* name(Isa isa);
std::optional<Isa> parse_isa(std::string_view text);
/// What an ISA needs, such as "AVX2, FMA and F16C".
const char* requirement(Isa isa);

/// What the processor and the operating system (saved vector state) support. Always holds `reference`.
IsaSet host_isas();
/// The fastest member of `available` on that kind of core.
Isa best_isa(IsaSet available, Core core);

}  // namespace kumiko::kernels
