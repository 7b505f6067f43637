// SPDX-License-Identifier: Apache-2.0
#include "scheduler/arena_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <utility>

namespace kumiko::scheduler {
namespace {

TEST(ArenaPool, GivesBackTheSmallestThatFits) {
  ArenaPool pool(-1);
  Arena small = pool.take(1 << 14);
  Arena large = pool.take(1 << 20);
  const std::byte* const small_data = small.data();
  const std::byte* const large_data = large.data();
  ASSERT_NE(small_data, nullptr);
  ASSERT_NE(large_data, nullptr);
  pool.give(std::move(large));
  pool.give(std::move(small));
  const Arena first = pool.take(1 << 14), second = pool.take(1 << 14);
  EXPECT_EQ(first.data(), small_data);
  EXPECT_EQ(second.data(), large_data);
  const Arena third = pool.take(1 << 14);
  EXPECT_NE(third.data(), small_data);
  EXPECT_NE(third.data(), large_data);
}

TEST(ArenaPool, TheSmallestThatFitsInWhateverOrderTheyCame) {
  ArenaPool pool(-1);
  Arena small = pool.take(1 << 14), large = pool.take(1 << 20);
  const std::byte* const small_data = small.data();
  pool.give(std::move(small));
  pool.give(std::move(large));
  EXPECT_EQ(pool.take(1 << 14).data(), small_data);
}

TEST(ArenaPool, OneThatIsTooSmallIsNotGiven) {
  ArenaPool pool(-1);
  pool.give(pool.take(1 << 14));
  const Arena arena = pool.take(1 << 16);
  ASSERT_GE(arena.size(), std::size_t{1} << 16);
  std::fill_n(arena.data(), 1 << 16, std::byte{1});
}

TEST(ArenaPool, KeepsTheLargestOfTooMany) {
  ArenaPool pool(-1);
  std::vector<Arena> arenas;
  for (std::size_t i = 1; i <= 20; ++i) arenas.push_back(pool.take(i << 16));
  std::set<const std::byte*> largest;
  for (std::size_t i = 4; i < 20; ++i) largest.insert(arenas[i].data());
  for (Arena& arena : arenas) pool.give(std::move(arena));
  for (int i = 0; i < 16; ++i) {
    arenas[static_cast<std::size_t>(i)] = pool.take(1);
    EXPECT_EQ(largest.count(arenas[static_cast<std::size_t>(i)].data()), 1u);
  }
}

TEST(ArenaPool, ShortMemoryIsAnEmptyArena) {
  ArenaPool pool(-1);
  EXPECT_EQ(pool.take(std::size_t{1} << 62).data(), nullptr);
  pool.give(Arena());
  EXPECT_NE(pool.take(0).data(), nullptr);
}

}  // namespace
}  // namespace kumiko::scheduler
