// SPDX-License-Identifier: Apache-2.0
// How kv_append's tokens become tasks: each once, tiles whole, at home in the domain of their pages.
#include "runtime/append_tasks.h"

#include <gtest/gtest.h>

#include "tests/runtime/append_case.h"
#include "tests/runtime/contexts.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

constexpr int kDomains = 3;

std::vector<std::int32_t> some_domains(const KvAppendArgs& args, Random& random) {
  std::vector<std::int32_t> domains;
  for (std::int64_t page = 0; page < args.key_cache.shape[0]; ++page)
    domains.push_back(static_cast<std::int32_t>(random.between(-1, kDomains - 1)));
  return domains;
}

AppendShape some_shape(Random& random) {
  AppendShape s;
  s.batch = random.between(1, 3), s.seq = random.pick({1, 7, 40, 100}), s.key_tiles = random.one_in(2);
  s.page_size = random.pick({16, 32, 64}), s.in_order = random.one_in(2), s.skips = random.one_in(2);
  s.cache_layout = Layout::bhsd;
  s.seed = random.bits();
  return s;
}

TEST(AppendTasks, HoldEveryTokenOnceAndTilesWhole) {
  Random random(test_seed(1));
  for (int repeat = 0; repeat < 200; ++repeat) {
    const AppendCase c(some_shape(random));
    KvAppendArgs args = c.args();
    const std::vector<std::int32_t> domains = some_domains(args, random);
    args.page_domains = domains.data();
    const std::int64_t tokens = args.key.shape[0] * args.key.shape[2], length = random.between(1, 20);
    const bool by_domain = random.one_in(2);
    const AppendTasks made = cut_tokens(args, length, by_domain);
    ASSERT_EQ(made.begin.size(), made.tasks.size() + 1);
    ASSERT_EQ(made.begin.front(), 0);
    ASSERT_EQ(made.begin.back(), tokens);
    for (std::size_t i = 0; i < made.tasks.size(); ++i) {
      const std::int64_t first = made.begin[i], last = made.begin[i + 1];
      ASSERT_EQ(made.tasks[i].cost, last - first);
      ASSERT_GT(last, first);
      ASSERT_LE(last - first, length + (args.key_layout == KeyLayout::tiles_of_16 ? 15 : 0));
      ASSERT_EQ(made.tasks[i].group, static_cast<std::int32_t>(i)) << "tasks of one group stay together";
      if (args.key_layout == KeyLayout::tiles_of_16 && first > 0) {
        ASSERT_FALSE(continues_tile(args, first)) << "two threads would write one tile";
      }
      ASSERT_TRUE(by_domain || made.tasks[i].home == -1);
    }
  }
}

TEST(AppendTasks, AreAtHomeInTheDomainOfTheirPages) {
  Random random(test_seed(2));
  int homes = 0;
  for (int repeat = 0; repeat < 200; ++repeat) {
    const AppendCase c(some_shape(random));
    KvAppendArgs args = c.args();
    const std::vector<std::int32_t> domains = some_domains(args, random);
    args.page_domains = domains.data();
    const AppendTasks made = cut_tokens(args, random.between(1, 20), true);
    for (std::size_t i = 0; i < made.tasks.size(); ++i) {
      bool has_slot = false;
      for (std::int64_t t = made.begin[i]; t < made.begin[i + 1]; ++t) {
        const std::int64_t slot = args.slot_mapping[t];
        if (slot < 0) continue;
        has_slot = true;
        ASSERT_EQ(domains[static_cast<std::size_t>(slot / args.key_cache.shape[2])], made.tasks[i].home)
            << "token " << t;
      }
      ASSERT_TRUE(has_slot || made.tasks[i].home == -1);
      homes += made.tasks[i].home >= 0;
    }
  }
  EXPECT_GT(homes, 100);
}

TEST(AppendTasks, DomainsChangeNoByte) {
  Random random(test_seed(3));
  ContextOptions options;
  options.topology = "numa:3 core:2 pu:1";
  for (const std::string& executor : kAllExecutors) {
    options.executor = executor;
    const Context context = context_of(options);
    ASSERT_EQ(context.num_domains(), kDomains);
    for (int repeat = 0; repeat < thinned(8, 3, 2); ++repeat) {
      AppendShape s = some_shape(random);
      s.batch = 3, s.seq = 100, s.kv_heads = 4, s.head_dim = s.v_head_dim = 128;  // large enough to be shared
      const AppendCase c(s);
      KvAppendArgs args = c.args();
      const std::vector<std::int32_t> domains = some_domains(args, random);
      args.page_domains = domains.data();
      const std::vector<std::byte> want = c.expected();
      c.reset();
      ASSERT_TRUE(kv_append(context, args).ok());
      ASSERT_TRUE(c.outputs() == want) << s;
    }
  }
}

}  // namespace
}  // namespace kumiko::test
