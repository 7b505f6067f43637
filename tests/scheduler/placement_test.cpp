// SPDX-License-Identifier: Apache-2.0
// What an arena asks of the kernel, on machines that are not here: the linker puts the calls below in the
// place of the kernel's. One process per machine, for the number of its nodes is looked up once.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <numaif.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "scheduler/arena_pool.h"
#include "scheduler/memory.h"
#include "scheduler/slots.h"
#include "tests/scheduler/deny_syscalls.h"

namespace {

// The machine, and what was asked of it.
std::string g_nodes_file;  // Of nodes with memory; empty: cannot be read.
int g_first_allowed_node = 0;
bool g_refuses_mbind = false;
struct Bound {
  void* data;
  unsigned long bytes;
  int mode;
  std::vector<int> nodes;
};
std::vector<Bound> g_bound;
std::vector<std::pair<std::size_t, int>> g_advice;
std::function<void()> g_before_next_mapping;
bool g_maps_off_huge_pages = false;  // One base page after their beginning.

constexpr int kWordBits = static_cast<int>(sizeof(unsigned long) * CHAR_BIT);
constexpr std::size_t kMiB = std::size_t{1} << 20;

}  // namespace

extern "C" {
int __real_open(const char* path, int flags, ...);
int __wrap_open(const char* path, int flags, ...);
long __wrap_mbind(void* data, unsigned long bytes, int mode, const unsigned long* mask, unsigned long bits,
                  unsigned flags);
long __wrap_get_mempolicy(int* mode, unsigned long* mask, unsigned long bits, void* address, unsigned flags);
int __wrap_madvise(void* data, std::size_t bytes, int advice);
void* __real_mmap(void* wanted, std::size_t bytes, int protection, int flags, int file, off_t offset);
void* __wrap_mmap(void* wanted, std::size_t bytes, int protection, int flags, int file, off_t offset);

int __wrap_open(const char* path, int flags, ...) {
  if (std::strcmp(path, "/sys/devices/system/node/has_memory") != 0) return __real_open(path, flags);
  int ends[2];
  if (g_nodes_file.empty() || pipe(ends) != 0) return -1;
  const bool written =
      write(ends[1], g_nodes_file.data(), g_nodes_file.size()) == static_cast<ssize_t>(g_nodes_file.size());
  close(ends[1]);
  return written ? ends[0] : -1;
}

long __wrap_mbind(void* data, unsigned long bytes, int mode, const unsigned long* mask, unsigned long bits,
                  unsigned) {
  Bound bound{data, bytes, mode, {}};
  for (int node = 0; node + 1 < static_cast<int>(bits); ++node) {
    if (mask[node / kWordBits] >> (node % kWordBits) & 1) bound.nodes.push_back(node);
  }
  g_bound.push_back(bound);
  if (!g_refuses_mbind) return 0;
  errno = EPERM;
  return -1;
}

long __wrap_get_mempolicy(int*, unsigned long* mask, unsigned long, void*, unsigned) {
  mask[g_first_allowed_node / kWordBits] = 1UL << (g_first_allowed_node % kWordBits);
  return 0;
}

int __wrap_madvise(void*, std::size_t bytes, int advice) {
  g_advice.emplace_back(bytes, advice);
  return 0;
}

void* __wrap_mmap(void* wanted, std::size_t bytes, int protection, int flags, int file, off_t offset) {
  if (const auto before = std::exchange(g_before_next_mapping, nullptr)) before();
  if (g_maps_off_huge_pages) {
    const std::size_t room = bytes + 4 * kMiB;
    void* const free_place = __real_mmap(nullptr, room, protection, flags, file, offset);
    if (free_place == MAP_FAILED || munmap(free_place, room) != 0) return MAP_FAILED;
    const auto begin = reinterpret_cast<std::uintptr_t>(free_place);
    const std::uintptr_t huge_page = (begin + 2 * kMiB - 1) / (2 * kMiB) * (2 * kMiB);
    wanted = reinterpret_cast<void*>(huge_page + static_cast<std::size_t>(sysconf(_SC_PAGESIZE)));
  }
  return __real_mmap(wanted, bytes, protection, flags, file, offset);
}
}

namespace kumiko::scheduler {
namespace {

struct Machine {
  const char* nodes;
  bool refuses_mbind;
  bool takes_huge_pages;  // For what fills one.
};

// A huge page holds the scratch of several workers, so it must be near all of them: bound to their node, or
// on a machine that has but one. First in this file: a process that has allocated once knows its machine.
TEST(HugePages, OnlyWhereTheyStayNear) {
  for (const Machine& machine : {Machine{"0\n", false, true},
                                 {"0-1\n", false, true},
                                 {"", false, true},
                                 {"0\n", true, true},
                                 {"3\n", true, true},
                                 {"0-1\n", true, false},
                                 {"0,2\n", true, false},
                                 {"", true, false}}) {
    const auto result = test::in_child([&] {
      g_nodes_file = machine.nodes;
      g_refuses_mbind = machine.refuses_mbind;
      for (const std::size_t bytes : {std::size_t{1}, 2 * kMiB - 1, 2 * kMiB, 2 * kMiB + 1, 9 * kMiB}) {
        g_advice.clear();
        const Arena arena = Arena::allocate(bytes, 0);
        const bool is_huge = bytes >= 2 * kMiB && sysconf(_SC_PAGESIZE) == 4096 && machine.takes_huge_pages;
        if (g_advice.size() != 1 || g_advice[0].first != arena.size()) return 2;
        if (g_advice[0].second != (is_huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE)) return 3;
      }
      return 0;
    });
    EXPECT_EQ(result.status, 0) << "2: not advised once, for all of it; 3: wrong advice; on nodes '"
                                << machine.nodes << "', mbind refused: " << machine.refuses_mbind;
  }
}

TEST(Placement, TheWholeArenaIsPreferredOnItsNode) {
  g_bound.clear();
  for (const int node : {0, 1, 63, 64, 1023}) {
    for (const std::size_t bytes : {std::size_t{1}, 100 * std::size_t{4096}, 5 * kMiB}) {
      g_bound.clear();
      const Arena arena = Arena::allocate(bytes, node);
      EXPECT_TRUE(arena.placed());
      ASSERT_EQ(g_bound.size(), 1u);
      EXPECT_EQ(g_bound[0].data, arena.data());
      EXPECT_EQ(g_bound[0].bytes, arena.size());
      EXPECT_EQ(g_bound[0].mode, MPOL_PREFERRED) << "a strict binding ends the process where a node is full";
      EXPECT_EQ(g_bound[0].nodes, std::vector<int>{node});
    }
  }
}

TEST(Placement, NoNodeIsNotAskedFor) {
  g_bound.clear();
  for (const int node : {-1, 1024, INT_MAX}) EXPECT_FALSE(Arena::allocate(1, node).placed()) << node;
  EXPECT_TRUE(g_bound.empty());
}

TEST(Placement, MovesWithTheArena) {
  Arena from = Arena::allocate(1, 0);
  Arena to = std::move(from);
  EXPECT_TRUE(to.placed());
  EXPECT_FALSE(from.placed());  // NOLINT: the state after the move is what is tested.
  from = std::move(to);
  EXPECT_TRUE(from.placed());
  EXPECT_FALSE(to.placed());  // NOLINT
  Arena::free(from.release(), 1);
  EXPECT_FALSE(from.placed());
}

TEST(Placement, APoolsArenasAreOnItsNode) {
  ArenaPool pool(3);
  g_bound.clear();
  EXPECT_TRUE(pool.take(1).placed());
  ASSERT_EQ(g_bound.size(), 1u);
  EXPECT_EQ(g_bound[0].nodes, std::vector<int>{3});
}

// Two domains, two slots in the first and one in the second.
Slots three_slots(bool is_host) {
  Topology topology;
  topology.is_host = is_host;
  topology.domains = {{.numa_node = 3, .cores = {{0}, {1}}}, {.numa_node = 5, .cores = {{2}}}};
  return {topology, seat_workers(topology, 3, Bind::close)};
}

TEST(Placement, ScratchIsOnTheNodeOfItsSlotsDomain) {
  Slots slots = three_slots(true);
  g_bound.clear();
  ASSERT_TRUE(slots.reserve(10000));
  ASSERT_EQ(g_bound.size(), 2u);
  EXPECT_EQ(g_bound[0].nodes, std::vector<int>{3});
  EXPECT_EQ(g_bound[1].nodes, std::vector<int>{5});
  for (int slot = 0; slot < 3; ++slot) {
    const Bound& bound = g_bound[slot < 2 ? 0 : 1];
    const auto* const begin = static_cast<const std::byte*>(bound.data);
    EXPECT_GE(slots.prepare(slot).scratch, begin) << slot;
    EXPECT_LE(slots.prepare(slot).scratch + 10000, begin + bound.bytes) << slot;
  }
  const std::ptrdiff_t apart = slots.prepare(0).scratch - slots.prepare(1).scratch;
  EXPECT_GE(std::abs(apart), 10000);
}

TEST(Placement, ScratchOfAMachineThatIsNotHereHasNoNode) {
  Slots slots = three_slots(false);
  g_bound.clear();
  ASSERT_TRUE(slots.reserve(10000));
  EXPECT_TRUE(g_bound.empty());
}

// Who waited while another reserved more leaves it at that.
TEST(Placement, ASmallerReserveAtTheSameTimeTakesNothingBack) {
  Slots slots = three_slots(false);
  std::thread smaller;
  bool is_waiting = false;
  g_before_next_mapping = [&] {
    smaller = std::thread([&] { EXPECT_TRUE(slots.reserve(100)); });
    is_waiting = test::all_others_come_to_rest();
  };
  g_advice.clear();
  ASSERT_TRUE(slots.reserve(3 * kMiB));
  smaller.join();
  EXPECT_TRUE(is_waiting);
  EXPECT_EQ(g_advice.size(), 2u) << "one arena for each domain";
}

TEST(Placement, TheNoteTriesANodeThatIsAllowed) {
  g_first_allowed_node = 70;
  g_bound.clear();
  EXPECT_EQ(placement_note(), "");
  ASSERT_EQ(g_bound.size(), 1u);
  EXPECT_EQ(g_bound[0].nodes, std::vector<int>{70});
  g_refuses_mbind = true;
  const std::string note = placement_note();
  EXPECT_NE(note.find("refuses mbind to node 70 (" + std::string(std::strerror(EPERM)) + ")"),
            std::string::npos)
      << note;
  g_refuses_mbind = false;
  g_first_allowed_node = 0;
}

// In bytes of address space, as the kernel counts them.
std::size_t address_space() {
  unsigned long pages = 0;
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  if (file == nullptr || std::fscanf(file, "%lu", &pages) != 1) ADD_FAILURE() << "/proc/self/statm";
  if (file != nullptr) std::fclose(file);
  return pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

// Wherever the kernel maps it: newer ones begin a large mapping on a huge page by themselves.
TEST(AddressSpace, AnArenaTakesItsSizeAndGivesAllOfItBack) {
  address_space();
  for (const bool is_off : {false, true}) {
    g_maps_off_huge_pages = is_off;
    for (const std::size_t bytes : {std::size_t{1}, 3 * kMiB, 8 * kMiB}) {
      const std::size_t before = address_space();
      {
        const Arena odd = Arena::allocate(1, -1), arena = Arena::allocate(bytes, -1);
        EXPECT_EQ(address_space(), before + odd.size() + arena.size());
      }
      EXPECT_EQ(address_space(), before);
      Arena::free(Arena::allocate(bytes, -1).release(), bytes);
      EXPECT_EQ(address_space(), before);
    }
  }
  g_maps_off_huge_pages = false;
}

TEST(AddressSpace, SizesAreWholePages) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, page}) {
    EXPECT_EQ(Arena::size_for(bytes), page);
    EXPECT_EQ(round_to_pages(bytes), page);
  }
  EXPECT_EQ(round_to_pages(page + 1), 2 * page);
  EXPECT_EQ(Arena::size_for(2 * kMiB + 1), page == 4096 ? 4 * kMiB : 2 * kMiB + page);
  EXPECT_EQ(round_to_pages(2 * kMiB + 1), 2 * kMiB + page);
  for (const std::size_t bytes : {static_cast<std::size_t>(PTRDIFF_MAX), SIZE_MAX}) {
    EXPECT_EQ(Arena::size_for(bytes), 0u);
    EXPECT_EQ(round_to_pages(bytes), 0u);
  }
}

}  // namespace
}  // namespace kumiko::scheduler
