// SPDX-License-Identifier: Apache-2.0
// Random walks of a server: mixed batches, page tables and appends against a plain model.
#include "tests/runtime/server_walk.h"

#include <gtest/gtest.h>

#include "tests/runtime/contexts.h"

namespace kumiko::test {
namespace {

constexpr DataType kTypes[] = {DataType::f32, DataType::bf16, DataType::f16};

struct ServerWalks : testing::TestWithParam<std::string> {
  std::vector<Context> contexts = contexts_of(GetParam());
  Random random{test_seed(1717)};

  WalkShape shape() {
    WalkShape s;
    s.kv_heads = random.between(1, 2), s.q_heads = s.kv_heads * random.between(1, 4);
    s.head_dim = random.pick({2, 16, 40}), s.v_head_dim = random.pick({1, 16, 24});
    s.type = kTypes[random.between(0, 2)];
    s.page_keys = random.pick({1, 3, 16, 16, 32, 64, 128, 512});
    s.pages = random.between(1800, 3000) / s.page_keys;
    s.key_tiles = s.page_keys % 16 == 0 && random.one_in(3);
    s.heads_last = random.one_in(2), s.page_lists = random.one_in(2);
    if (random.one_in(3)) s.window_left = random.pick({0, 40, 300});
    s.sinks = random.one_in(3);
    s.longest_prompt = random.pick({30, 400, 700});
    if (random.one_in(3)) {  // Only keys 512 and more before a sequence's end are shared.
      s.longest_prompt = 1800, s.longest_chunk = 600;
      s.pages *= 3, s.window_left = -1;
    }
    s.seed = random.bits();
    return s;
  }
};

TEST_P(ServerWalks, EveryStepIsThatOfThePlainModel) {
  ServerWalk::Events all;
  const int walks = kEmulated ? 1 : thinned(10, 2, 1);  // ten take 5 s, and minutes under an emulator
  for (int walk = 0; walk < walks; ++walk) {
    const WalkShape s = shape();
    SCOPED_TRACE(::testing::Message() << s);
    ServerWalk server(s);
    for (int step = 0; step < thinned(36, 12, 10); ++step) {
      SCOPED_TRACE(::testing::Message() << "step " << step);
      server.next_step();
      ASSERT_NO_FATAL_FAILURE(server.append(random.pick(contexts)));
      ASSERT_NO_FATAL_FAILURE(server.attend(random.pick(contexts)));
    }
    const ServerWalk::Events& events = server.events();
    all.updates += events.updates, all.forks += events.forks, all.rejected += events.rejected;
    all.finished += events.finished, all.shared_groups += events.shared_groups;
    all.mixed_steps += events.mixed_steps;
  }
  std::printf("%d updates, %d forks, %d rejections, %d ends, %d plans with shared pages, %d mixed steps\n",
              all.updates, all.forks, all.rejected, all.finished, all.shared_groups, all.mixed_steps);
  if (kThinned) return;
  for (const int count :
       {all.updates, all.forks, all.rejected, all.finished, all.shared_groups, all.mixed_steps})
    EXPECT_GT(count, 0) << "the walks went past a kind of step";
}

INSTANTIATE_TEST_SUITE_P(Isas, ServerWalks, ::testing::ValuesIn(swept_isas()), StringName());

}  // namespace
}  // namespace kumiko::test
