// SPDX-License-Identifier: Apache-2.0
// Arenas, and what is left of them where the kernel refuses placement.
#include <gtest/gtest.h>
#include <numaif.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "scheduler/memory.h"
#include "scheduler/topology.h"
#include "tests/scheduler/deny_syscalls.h"

namespace kumiko::scheduler {
namespace {

int first_node() {
  std::string error;
  const auto topology = discover_topology("", {}, error);
  EXPECT_TRUE(topology) << error;
  return topology ? topology->domains[0].numa_node : 0;
}

bool is_writable_and_zero(const Arena& arena) {
  if (!std::all_of(arena.data(), arena.data() + arena.size(), [](std::byte b) { return b == std::byte{0}; }))
    return false;
  std::fill_n(arena.data(), arena.size(), std::byte{0xa5});
  return true;
}

TEST(Arena, WholePagesZeroedAndAligned) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  for (const std::size_t bytes :
       {std::size_t{0}, std::size_t{1}, page - 1, page, page + 1, std::size_t{1} << 20,
        (std::size_t{2} << 20) - 1, std::size_t{2} << 20, (std::size_t{5} << 20) + 1}) {
    for (const int node : {-1, first_node()}) {
      const Arena arena = Arena::allocate(bytes, node);
      ASSERT_NE(arena.data(), nullptr) << bytes;
      EXPECT_GE(arena.size(), std::max<std::size_t>(bytes, 1));
      EXPECT_EQ(arena.size() % page, 0u);
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(arena.data()) % page, 0u);
      EXPECT_TRUE(is_writable_and_zero(arena)) << bytes;
    }
  }
}

TEST(Arena, HugeOnesStartOnAHugePage) {
  if (sysconf(_SC_PAGESIZE) != 4096) {
    EXPECT_NE(Arena::allocate(2 << 20, -1).data(), nullptr);
    return;
  }
  for (int i = 0; i < 8; ++i) {
    const Arena arena = Arena::allocate((2 << 20) + 4096 * i, -1);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(arena.data()) % (2 << 20), 0u);
  }
}

TEST(Arena, PlacedExactlyWhereTheNoteSaysNothing) {
  EXPECT_EQ(Arena::allocate(1 << 16, first_node()).placed(), placement_note().empty()) << placement_note();
  EXPECT_FALSE(Arena::allocate(1 << 16, -1).placed());
}

// As the kernel tells, whatever the arena says of itself. Where it refuses a mapping of the test's own it
// must have refused the arena's.
TEST(Arena, TheKernelHasItPlacedFromEndToEnd) {
  const int node = first_node();
  const unsigned long wanted = 1UL << node;
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  void* own = mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(own, MAP_FAILED);
  const bool is_allowed = mbind(own, page, MPOL_PREFERRED, &wanted, 65, 0) == 0;
  munmap(own, page);
  for (const std::size_t bytes : {page, 10 * page, std::size_t{5} << 20}) {
    const Arena arena = Arena::allocate(bytes, node);
    ASSERT_EQ(arena.placed(), is_allowed);
    if (!is_allowed) continue;
    for (const std::size_t at : {std::size_t{0}, arena.size() / 2, arena.size() - 1}) {
      int mode = -1;
      std::array<unsigned long, 16> nodes{};
      ASSERT_EQ(get_mempolicy(&mode, nodes.data(), 1024, arena.data() + at, MPOL_F_ADDR), 0);
      EXPECT_EQ(mode, MPOL_PREFERRED);
      EXPECT_EQ(nodes[0], wanted) << at << " of " << bytes;
    }
  }
}

TEST(Arena, NodeThatDoesNotExistLeavesPlainMemory) {
  for (const int node : {1023, 1024, 1 << 30}) {
    const Arena arena = Arena::allocate(1 << 16, node);
    ASSERT_NE(arena.data(), nullptr);
    EXPECT_FALSE(arena.placed());
    EXPECT_TRUE(is_writable_and_zero(arena));
  }
}

TEST(Arena, ShortMemoryIsAnEmptyArena) {
  for (const std::size_t bytes :
       {SIZE_MAX, SIZE_MAX / 2, SIZE_MAX / 2 - (std::size_t{4} << 20), std::size_t{1} << 62}) {
    const Arena arena = Arena::allocate(bytes, 0);
    EXPECT_EQ(arena.data(), nullptr) << bytes;
    EXPECT_EQ(arena.size(), 0u);
  }
}

TEST(Arena, Moves) {
  Arena a = Arena::allocate(1, -1);
  std::byte* const data = a.data();
  Arena b = std::move(a);
  EXPECT_EQ(b.data(), data);
  EXPECT_EQ(a.data(), nullptr);  // NOLINT: the state after the move is what is tested.
  Arena c = Arena::allocate(1, -1);
  c = std::move(b);
  EXPECT_EQ(c.data(), data);
  EXPECT_TRUE(is_writable_and_zero(c));
}

class Refused : public testing::TestWithParam<int> {};

TEST_P(Refused, PlainMappingAndANoteThatSaysWhy) {
  const int error = GetParam();
  const int node = first_node();
  const auto result = test::in_child([&] {
    if (!test::deny_syscalls({SYS_mbind, SYS_set_mempolicy, SYS_get_mempolicy}, error)) return 2;
    const Arena arena = Arena::allocate(3 << 20, node);
    if (arena.data() == nullptr || !is_writable_and_zero(arena)) return 3;
    if (arena.placed()) return 4;
    const std::string note = placement_note();
    if (note.find("first touch") == std::string::npos || note.find("get_mempolicy") == std::string::npos)
      return 5;
    if (note.find(std::strerror(error)) == std::string::npos) return 6;
    return 0;
  });
  EXPECT_EQ(result.status, 0);
  EXPECT_EQ(result.output, "");
}

TEST_P(Refused, MbindAlone) {
  const int error = GetParam();
  const int node = first_node();
  const auto result = test::in_child([&] {
    if (!test::deny_syscalls({SYS_mbind}, error)) return 2;
    const Arena arena = Arena::allocate(1 << 16, node);
    if (arena.data() == nullptr || !is_writable_and_zero(arena)) return 3;
    if (arena.placed()) return 4;
    return placement_note().find("first touch") == std::string::npos ? 5 : 0;
  });
  EXPECT_EQ(result.status, 0);
  EXPECT_EQ(result.output, "");
}

INSTANTIATE_TEST_SUITE_P(Errors, Refused, testing::Values(EPERM, ENOSYS));

}  // namespace
}  // namespace kumiko::scheduler
