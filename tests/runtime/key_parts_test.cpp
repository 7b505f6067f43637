// SPDX-License-Identifier: Apache-2.0
// Keys in parts: running states over blocks of keys, and states of splits merged elsewhere, have the bits of
// one call over all keys.
#include "runtime/key_parts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "tests/runtime/contexts.h"
#include "tests/runtime/server_step.h"

namespace kumiko::test {
namespace {

constexpr DataType kTypes[] = {DataType::f32, DataType::bf16, DataType::f16};
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

std::vector<Outcome> outcomes(const ServerStep& step) {
  std::vector<Outcome> all;
  for (std::size_t b = 0; b < step.sequences(); ++b) all.push_back(step.packed_outcome(b));
  return all;
}

struct KeyParts : testing::TestWithParam<std::string> {
  std::vector<Context> contexts = contexts_of(GetParam());
  Random random{test_seed(73)};

  StepShape shape() {
    StepShape s;
    for (std::int64_t i = random.between(1, 4); i > 0; --i) {
      const auto kv_len = static_cast<std::int32_t>(random.between(0, random.pick({40, 700, 1300, 2600})));
      const auto q_len = static_cast<std::int32_t>(random.pick<std::int64_t>(
          {1, random.between(0, 9), random.between(0, 90), std::min<std::int64_t>(kv_len, 150)}));
      s.sequences.push_back({q_len, kv_len});
    }
    s.kv_heads = random.between(1, 2), s.q_heads = s.kv_heads * random.between(1, 4);
    s.head_dim = random.pick({1, 7, 16, 40, 72}), s.v_head_dim = random.pick({1, 8, 24, 65});
    s.type = kTypes[random.between(0, 2)];
    s.page_keys = random.pick({0, 7, 16, 48, 100, 256, 512});
    s.is_causal = random.one_in(2);
    s.alignment = random.pick({CausalAlignment::bottom_right, CausalAlignment::top_left});
    if (random.one_in(3)) s.window_left = random.pick({0, 5, 300, 1200});
    if (random.one_in(5)) s.window_right = random.pick({0, 3, 600});
    if (random.one_in(5)) s.softcap = 3.0f;
    s.bias = random.one_in(5), s.mask = random.one_in(5), s.alibi = random.one_in(5);
    s.sinks = random.one_in(3), s.prefix_lens = random.one_in(4);
    s.page_lists = random.one_in(3);
    s.key_tiles = s.page_keys > 0 && s.page_keys % 16 == 0 && random.one_in(2);
    s.seed = random.bits();
    return s;
  }
  std::vector<Outcome> outcomes_of_one_call(const ServerStep& step) {
    step.poison_outputs();
    const Status whole = attention_forward(contexts[0], step.args());
    EXPECT_TRUE(whole.ok()) << whole.message();
    return outcomes(step);
  }
  /// The part in two: the KV heads from one on, and those before it.
  std::vector<KeyPart> in_two(const StepShape& s, const KeyPart& part) {
    std::vector<KeyPart> two(2, part);
    two[0].kv_head_begin = two[1].kv_head_end = random.between(0, s.kv_heads);
    if (random.one_in(2)) two[0].kv_head_end = s.kv_heads;
    return two;
  }
  /// Makes the entries of pages without a key of the part unusable.
  void spoil_other_pages(const StepShape& s, const KeyPart& part, ServerStep* step) {
    if (s.page_keys == 0) return;
    for (std::size_t b = 0; b < s.sequences.size(); ++b) {
      const std::int64_t pages = (s.sequences[b].kv_len + s.page_keys - 1) / s.page_keys;
      for (std::int64_t page = 0; page < pages; ++page) {
        const std::int64_t first = page * s.page_keys / kKeysPerSplit,
                           last = ((page + 1) * s.page_keys - 1) / kKeysPerSplit;
        bool used = false;
        for (std::int64_t split = first; split <= last; ++split)
          used = used || (split * kKeysPerSplit >= part.key_begin &&
                          (part.key_end < 0 || split * kKeysPerSplit < part.key_end) &&
                          split % part.parts == part.part);
        if (!used) step->table(b, page) = random.pick({-1, -77, 1 << 30});
      }
    }
  }
};

TEST_P(KeyParts, RunningStatesOverAnyBlocksEqualOneCall) {
  for (int repeat = 0; repeat < thinned(50, 6, 6); ++repeat) {
    StepShape s = shape();
    if (random.one_in(2)) s.window_sink_tokens = random.pick({1, 70, 600});
    SCOPED_TRACE(::testing::Message() << s);
    const ServerStep step(s);
    const std::vector<Outcome> want = outcomes_of_one_call(step);
    ASSERT_FALSE(HasFailure());

    std::int64_t floats = -1;
    ASSERT_TRUE(prepare_running_states(contexts[0], step.args(), {}, &floats).ok());
    std::vector<float> states(static_cast<std::size_t>(floats) + 1, kNaN);
    step.poison_outputs();
    bool is_first = true;
    for (std::int64_t at = 0, end = 0; end != -1; at = end, is_first = false) {
      end = random.one_in(4) ? -1 : at + kKeysPerSplit * random.between(0, 3);
      KeyPart part;
      part.key_begin = at, part.key_end = end;
      ServerStep piece(s);  // The same tensors elsewhere.
      spoil_other_pages(s, part, &piece);
      AttentionArgs args = piece.args();
      args.out = step.args().out, args.lse = step.args().lse, args.row_max = step.args().row_max;
      args.pipeline = kPipelines[random.between(0, std::size(kPipelines) - 1)];
      EXPECT_TRUE(step.outputs_untouched());
      for (const KeyPart& heads : in_two(s, part)) {
        const Status status =
            attention_continue(random.pick(contexts), args, heads, states.data(), is_first, end == -1);
        ASSERT_TRUE(status.ok()) << status.message();
      }
    }
    for (std::size_t b = 0; b < step.sequences(); ++b)
      EXPECT_TRUE(same_bits(step.packed_outcome(b), want[b])) << "sequence " << b;
    EXPECT_TRUE(step.borders_intact());
    EXPECT_NE(states.back(), states.back());
  }
}

// Splits computed before those before them, as ranks do that wait for keys, and merged in their turn.
TEST_P(KeyParts, StatesComputedAheadEqualOneCall) {
  for (int repeat = 0; repeat < thinned(50, 6, 6); ++repeat) {
    StepShape s = shape();
    if (random.one_in(2)) s.window_sink_tokens = random.pick({1, 70, 600});
    SCOPED_TRACE(::testing::Message() << s);
    const ServerStep step(s);
    const std::vector<Outcome> want = outcomes_of_one_call(step);
    ASSERT_FALSE(HasFailure());

    std::int64_t floats = -1, longest = 0;
    ASSERT_TRUE(prepare_running_states(contexts[0], step.args(), {}, &floats).ok());
    for (const StepSequence& sequence : s.sequences)
      longest = std::max<std::int64_t>(longest, sequence.kv_len);
    const std::int64_t splits = std::max<std::int64_t>((longest + kKeysPerSplit - 1) / kKeysPerSplit, 1);
    const auto add = [&](std::int64_t split, std::vector<float>& states, bool is_first, bool is_last) {
      KeyPart part;
      part.key_begin = split * kKeysPerSplit, part.key_end = part.key_begin + kKeysPerSplit;
      AttentionArgs args = step.args();
      args.pipeline = kPipelines[random.between(0, std::size(kPipelines) - 1)];
      for (const KeyPart& heads : in_two(s, part)) {
        const Status status =
            attention_continue(random.pick(contexts), args, heads, states.data(), is_first, is_last);
        ASSERT_TRUE(status.ok()) << status.message();
      }
    };
    std::vector<std::vector<float>> ahead(static_cast<std::size_t>(splits));
    for (std::int64_t split = splits - 1; split >= 0; --split) {
      if (random.one_in(2)) continue;
      ahead[static_cast<std::size_t>(split)].assign(static_cast<std::size_t>(floats) + 1, kNaN);
      add(split, ahead[static_cast<std::size_t>(split)], true, false);
    }
    std::vector<float> states(static_cast<std::size_t>(floats) + 1, kNaN);
    step.poison_outputs();
    for (std::int64_t split = 0, first = 0; split < splits; first = split) {
      std::vector<const float*> next;
      while (split < splits && !ahead[static_cast<std::size_t>(split)].empty() && next.size() < 3)
        next.push_back(ahead[static_cast<std::size_t>(split++)].data());
      if (next.empty()) {
        ASSERT_NO_FATAL_FAILURE(add(split, states, first == 0, split + 1 == splits));
        ++split;
        continue;
      }
      EXPECT_TRUE(step.outputs_untouched());
      for (const KeyPart& heads : in_two(s, {})) {
        const Status status = merge_running_states(random.pick(contexts), step.args(), heads, states.data(),
                                                   next, first == 0, split == splits);
        ASSERT_TRUE(status.ok()) << status.message();
      }
    }
    for (std::size_t b = 0; b < step.sequences(); ++b)
      EXPECT_TRUE(same_bits(step.packed_outcome(b), want[b])) << "sequence " << b;
    EXPECT_TRUE(step.borders_intact());
    EXPECT_NE(states.back(), states.back());
  }
}

TEST_P(KeyParts, SplitStatesOfAnyPartsMerge) {
  for (int repeat = 0; repeat < thinned(50, 6, 6); ++repeat) {
    const StepShape s = shape();
    SCOPED_TRACE(::testing::Message() << s);
    const ServerStep step(s);
    const std::vector<Outcome> want = outcomes_of_one_call(step);
    ASSERT_FALSE(HasFailure());

    const std::int64_t parts = random.between(1, 4);
    std::vector<std::vector<float>> states;
    for (std::int64_t p = 0; p < parts; ++p) {
      KeyPart part;
      part.parts = parts, part.part = p;
      ServerStep piece(s);
      spoil_other_pages(s, part, &piece);
      piece.poison_outputs();
      std::int64_t floats = -1;
      ASSERT_TRUE(prepare_split_states(contexts[0], piece.args(), part, &floats).ok());
      states.emplace_back(static_cast<std::size_t>(floats) + 1, kNaN);
      const Status status =
          attention_split_states(random.pick(contexts), piece.args(), part, states.back().data());
      ASSERT_TRUE(status.ok()) << status.message();
      EXPECT_TRUE(piece.outputs_untouched());
      EXPECT_NE(states.back().back(), states.back().back());
    }
    step.poison_outputs();
    // Units in pieces, as ranks that share the merging do.
    const auto sequences = static_cast<std::int64_t>(s.sequences.size());
    std::vector<const float*> from;
    for (const auto& part : states) from.push_back(part.data());
    for (std::int64_t unit = 0, end = 0; unit < sequences * s.kv_heads; unit = end) {
      end = random.between(unit + 1, sequences * s.kv_heads);
      const Status status = merge_split_states(random.pick(contexts), step.args(), from, unit, end);
      ASSERT_TRUE(status.ok()) << status.message();
      const std::int64_t size = s.v_head_dim + 2, group = s.q_heads / s.kv_heads;
      for (std::int64_t u = unit; u < end; ++u) {
        const StepSequence& sequence = s.sequences[static_cast<std::size_t>(u / s.kv_heads)];
        const std::int64_t splits = (sequence.kv_len + kKeysPerSplit - 1) / kKeysPerSplit;
        for (std::int64_t p = 0; p < parts; ++p)
          from[static_cast<std::size_t>(p)] +=
              (splits > p ? (splits - p + parts - 1) / parts : 0) * sequence.q_len * group * size;
      }
    }
    for (std::size_t b = 0; b < step.sequences(); ++b)
      EXPECT_TRUE(same_bits(step.packed_outcome(b), want[b])) << "sequence " << b;
    EXPECT_TRUE(step.borders_intact());
  }
}

// Rows of a part of the queries stand where they stand in the whole.
TEST_P(KeyParts, SomeOfTheQueries) {
  for (int repeat = 0; repeat < thinned(40, 6, 6); ++repeat) {
    Case c = draw_small_case(random);
    c.lists = {};
    c.bias = c.mask = TermLayout::none;
    const Problem problem(c);
    SCOPED_TRACE(::testing::Message() << c);
    const Outcome whole = problem.run(contexts[0]);
    const std::int64_t first = random.between(0, c.q_len), last = random.between(first, c.q_len);
    const std::vector<std::int64_t> begin(static_cast<std::size_t>(c.batch), first),
        total(begin.size(), c.q_len);
    KeyPart part;
    part.query_begin = begin, part.query_total = total;
    AttentionArgs args = problem.args();
    args.q.data = static_cast<const float*>(args.q.data) + first * args.q.stride[2];
    args.out.data = static_cast<float*>(args.out.data) + first * args.out.stride[2];
    args.q.shape[2] = args.out.shape[2] = last - first;
    args.lse = args.row_max = {};
    problem.poison_outputs();
    const Status status = attention_continue(random.pick(contexts), args, part, nullptr, true, true);
    ASSERT_TRUE(status.ok()) << status.message();
    const std::vector<float> got = problem.out.elements();
    for (std::int64_t bh = 0; bh < c.batch * c.q_heads; ++bh) {
      const auto at = static_cast<std::ptrdiff_t>((bh * c.q_len + first) * c.v_head_dim),
                 count = static_cast<std::ptrdiff_t>((last - first) * c.v_head_dim);
      const Outcome rows{{got.begin() + at, got.begin() + at + count}, {}};
      EXPECT_TRUE(same_bits(rows, {{whole.out.begin() + at, whole.out.begin() + at + count}, {}}));
    }
  }
}

// Blocks of rows whose windows begin after the last key have a split whose state is empty. No page is there
// to be read: the block table ends with the keys.
TEST_P(KeyParts, StatesOfRowsBeyondTheKeys) {
  StepShape s;
  s.sequences = {{400, 290}};
  s.alignment = CausalAlignment::top_left, s.window_left = 5;
  for (const DataType type : kTypes) {
    s.type = type;
    const ServerStep step(s);
    const std::vector<Outcome> want = outcomes_of_one_call(step);
    ASSERT_FALSE(HasFailure());
    AttentionArgs args = step.args();
    args.max_pages = 19;  // of 16 keys
    const GuardedBuffer table(19 * sizeof(std::int32_t), Flush::back);
    std::copy_n(args.block_table, 19, reinterpret_cast<std::int32_t*>(table.data()));
    args.block_table = reinterpret_cast<const std::int32_t*>(table.data()), args.block_table_stride = 0;
    for (const Pipeline pipeline : kPipelines) {
      args.pipeline = pipeline;
      std::int64_t floats = -1;
      ASSERT_TRUE(prepare_split_states(contexts[0], args, {}, &floats).ok());
      std::vector<float> states(static_cast<std::size_t>(floats), kNaN);
      ASSERT_TRUE(attention_split_states(contexts[0], args, {}, states.data()).ok());
      step.poison_outputs();
      const float* const parts[] = {states.data()};
      ASSERT_TRUE(merge_split_states(contexts[0], args, parts).ok());
      EXPECT_TRUE(same_bits(step.packed_outcome(0), want[0])) << static_cast<int>(pipeline);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, KeyParts, ::testing::ValuesIn(swept_isas()), StringName());

}  // namespace
}  // namespace kumiko::test
