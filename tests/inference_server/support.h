// SPDX-License-Identifier: Apache-2.0
// How much memory and stack a call takes, and a folder for each test's files.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <filesystem>
#include <functional>
#include <string>

namespace inference::test {

/// Largest number of bytes allocated by operator new at one time during `call`, less those allocated before
/// it.
std::size_t peak_memory(const std::function<void()>& call);

/// Runs `call` on a thread with a stack of 256 KiB: recursion over client input overflows it.
void on_small_stack(const std::function<void()>& call);

/// The text of the exception `call` ends with, or "no error".
std::string message_of(const std::function<void()>& call);

/// A folder for the running test, empty at its start and removed after its end.
class FolderTest : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;
  std::filesystem::path folder_;
};

std::string read_bytes(const std::filesystem::path& path);
void write_bytes(const std::filesystem::path& path, const std::string& bytes);

}  // namespace inference::test
