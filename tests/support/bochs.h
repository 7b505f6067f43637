// SPDX-License-Identifier: Apache-2.0
// The errors of the emulated processor of tests/emulated_x86: docs/emulation.md says how they were found.
#pragma once

#include <span>

namespace kumiko::test {

/// Whether bochs runs this program: KUMIKO_TEST_PROCESSOR is "bochs", as guest.py sets it.
bool on_bochs();

/// Whether `exact` is midway between two neighbouring f16 values and `got` is the one further from zero,
/// which is not the even one. Bochs 2.7 rounds like that in every form of VCVTPS2PH that rounds to nearest
/// even, and in no other case.
bool is_f16_tie_gone_away(float got, float exact);

/// Replaces such ties in `want`, the correct roundings of `exact`, by the values in `got`, if on_bochs().
/// Does nothing on a real processor.
void allow_bochs_ties(std::span<const float> got, std::span<const float> exact, std::span<float> want);

}  // namespace kumiko::test
