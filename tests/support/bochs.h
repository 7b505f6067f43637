// SPDX-License-Identifier: Apache-2.0
// What the emulated processor of tests/emulated_x86 gets wrong: docs/emulation.md says how it was found.
#pragma once

#include <span>

namespace kumiko::test {

/// Whether bochs runs this program: KUMIKO_TEST_PROCESSOR is "bochs", as guest.py sets it.
bool on_bochs();

/// Whether `exact` lies midway between two neighbouring f16 values and `got` is the one further from zero,
/// which is not the even one. Bochs 2.7 rounds so in every form of VCVTPS2PH that rounds to nearest even, and
/// in no other case.
bool is_f16_tie_gone_away(float got, float exact);

/// Puts what `got` has for such ties into `want`, the right roundings of `exact`, if on_bochs(). On a
/// processor nothing changes.
void allow_bochs_ties(std::span<const float> got, std::span<const float> exact, std::span<float> want);

}  // namespace kumiko::test
