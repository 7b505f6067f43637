// SPDX-License-Identifier: Apache-2.0
// What the tests of several ranks share: every rank runs the same tests with the same random numbers, and
// none leaves a test while others are in a collective call of it.
#pragma once

#include <gtest/gtest.h>
#include <kumiko/distributed.h>

#include <string>

namespace kumiko::test {

/// The world's communicator; one for all tests that leave it usable.
const distributed::Communicator& world();
int world_rank();
int world_size();
/// Whether all ranks have the same status, code and message.
::testing::AssertionResult same_on_all_ranks(const Status& status);
// ranks.cpp has main(): MPI_Init_thread with the level in KUMIKO_TEST_MPI_LEVEL (0 to 3; 3 if unset), all
// tests, MPI_Finalize.

}  // namespace kumiko::test
