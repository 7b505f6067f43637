// SPDX-License-Identifier: Apache-2.0
// Keys in parts: running states over blocks of keys, and states of splits merged elsewhere, have the bits of
// one call over all keys.
#include "runtime/key_parts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <sstream>
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

struct KeyPartErrors : testing::Test {
  Context context = context_of("reference", "serial");
  Case c = [] {
    Case shape;
    shape.q_len = 3, shape.kv_len = 700;
    return shape;
  }();
  Problem problem{c};
  std::vector<float> states = std::vector<float>(1000, kNaN);

  static std::string at(const float* data) {
    std::ostringstream text;
    text << data;
    return text.str();
  }

  void expect_error(const KeyPart& part, const std::string& message, const AttentionArgs& args,
                    float* to) const {
    problem.poison_outputs();
    for (const bool keeps : {true, false}) {
      const Status status = keeps ? attention_split_states(context, args, part, to)
                                  : attention_continue(context, args, part, to, true, false);
      EXPECT_EQ(status.message(), message);
      EXPECT_NE(status.code(), Code::ok);
      EXPECT_TRUE(problem.outputs_untouched());
      EXPECT_TRUE(std::all_of(states.begin(), states.end(), [](float x) { return x != x; }));
    }
  }
};

TEST_F(KeyPartErrors, NameTheField) {
  const auto with = [&](auto change, const std::string& message) {
    KeyPart part;
    change(part);
    expect_error(part, message, problem.args(), const_cast<float*>(states.data()));
    std::int64_t floats = -1;
    EXPECT_EQ(prepare_split_states(context, problem.args(), part, &floats).message(), message);
    EXPECT_EQ(prepare_running_states(context, problem.args(), part, &floats).message(), message);
    EXPECT_EQ(floats, -1);
  };
  with([](auto& p) { p.key_begin = 511; },
       "part.key_begin is 511; expected a multiple of 512 in 0..2147483136");
  with([](auto& p) { p.key_begin = -512; },
       "part.key_begin is -512; expected a multiple of 512 in 0..2147483136");
  with([](auto& p) { p.key_begin = std::int64_t{1} << 31; },
       "part.key_begin is 2147483648; expected a multiple of 512 in 0..2147483136");
  with([](auto& p) { p.key_end = 700; },
       "part.key_end is 700; expected -1 (no end), or a multiple of 512 from part.key_begin on, which is 0");
  with([](auto& p) { p.key_begin = 1024, p.key_end = 512; },
       "part.key_end is 512; expected -1 (no end), or a multiple of 512 from part.key_begin on, which is "
       "1024");
  with([](auto& p) { p.parts = 0; }, "part.parts is 0; expected 1 or more");
  with([](auto& p) { p.parts = 2, p.part = 2; }, "part.part is 2; expected 0..1 (part.parts - 1)");
  with([](auto& p) { p.part = -1; }, "part.part is -1; expected 0..0 (part.parts - 1)");
  with([](auto& p) { p.kv_head_begin = 2; }, "part.kv_head_begin is 2; expected 0..1 (k.shape[1])");
  with([](auto& p) { p.kv_head_begin = -1; }, "part.kv_head_begin is -1; expected 0..1 (k.shape[1])");
  with([](auto& p) { p.kv_head_begin = 1, p.kv_head_end = 0; },
       "part.kv_head_end is 0; expected -1, or 1..1");
  with([](auto& p) { p.kv_head_end = 2; }, "part.kv_head_end is 2; expected -1, or 0..1");
  with([](auto& p) { p.score_columns = 700; },
       "part.score_columns is 700; expected 0, or with seqused_k at least its longest, which is 0");
  const std::int64_t lists[] = {0, 1, 2, 4};
  with(
      [&](auto& p) {
        p.query_begin = {lists, 1};
      },
      "part.query_total.size() is 0; expected 1 (sequences), or 0 for both lists");
  with(
      [&](auto& p) {
        p.query_begin = {lists, 2};
      },
      "part.query_begin.size() is 2; expected 1 (sequences), or 0 for both lists");
  with(
      [&](auto& p) {
        p.query_begin = {lists, 1}, p.query_total = {lists + 2, 1};
      },
      "part.query_total[0] is 2; expected 3 (q_len)..2147483647");
  with(
      [&](auto& p) {
        p.query_begin = {lists + 2, 1}, p.query_total = {lists + 3, 1};
      },
      "part.query_begin[0] is 2; expected 0..1 (query_total - q_len)");
  const std::int64_t before = -1;
  with(
      [&](auto& p) {
        p.query_begin = {&before, 1}, p.query_total = {lists + 3, 1};
      },
      "part.query_begin[0] is -1; expected 0..1 (query_total - q_len)");
}

TEST_F(KeyPartErrors, ScoresAndTreesThatDoNotFitThePart) {
  float* const to = states.data();
  KeyPart part;
  AttentionArgs args = problem.args();
  const std::int32_t used = 600;
  const float zero = 0.0f;
  args.seqused_k = &used;
  args.bias = {&zero, {args.q.shape[0], args.q.shape[1], 3, 700}, {0, 0, 0, 0}, DataType::f32};
  part.score_columns = 650;
  expect_error(part, "bias.shape[3] (kv_len) is 700; expected part.score_columns, which is 650", args, to);
  part = {};
  args = problem.args();
  const std::uint8_t bits[3] = {7, 7, 7};
  const std::int64_t begin = 1, total = 4;
  args.tree_mask = bits;
  part.query_begin = {&begin, 1}, part.query_total = {&total, 1};
  expect_error(part, "tree_mask is given; expected null, as part.query_begin is given", args, to);
}

TEST_F(KeyPartErrors, StatesAreMemoryOfTheirOwn) {
  expect_error({}, "states is null; expected a tensor", problem.args(), nullptr);
  AttentionArgs windows = problem.args();
  windows.window_left = 5, windows.window_sink_tokens = 3;
  KeyPart part;
  const Status status = attention_split_states(context, windows, part, states.data());
  EXPECT_EQ(status.code(), Code::unsupported);
  EXPECT_EQ(status.message(), "window_sink_tokens is 3; expected 0 for split states, or no window");
  part.kv_head_end = 1;
  EXPECT_EQ(attention_split_states(context, problem.args(), part, states.data()).message(),
            "part.kv_head_begin and kv_head_end are 0 and 1; expected 0 and -1 for split states");
  part.kv_head_end = -1;
  auto* const out = static_cast<float*>(problem.args().out.data);
  EXPECT_FALSE(attention_continue(context, problem.args(), part, out, true, false).ok());
  EXPECT_TRUE(problem.outputs_untouched());
}

TEST_F(KeyPartErrors, StatesAreNotAnInput) {
  AttentionArgs args = problem.args();
  args.bias = {states.data(), {1, 1, c.q_len, c.kv_len}, {0, 0, 0, 1}, DataType::f32};
  expect_error({}, "states is " + at(states.data()) + "; expected memory apart from bias", args,
               states.data());
  args.bias = {};
  args.alibi_slopes = states.data();
  expect_error({}, "states is " + at(states.data()) + "; expected memory apart from alibi_slopes", args,
               states.data());
  args.alibi_slopes = nullptr;
  args.sinks = states.data();
  expect_error({}, "states is " + at(states.data()) + "; expected memory apart from sinks", args,
               states.data());
}

TEST_F(KeyPartErrors, TheirNumberHasAPlace) {
  const std::string message = "floats is null; expected where to put their number";
  EXPECT_EQ(prepare_running_states(context, problem.args(), {}, nullptr).message(), message);
  EXPECT_EQ(prepare_split_states(context, problem.args(), {}, nullptr).message(), message);
}

TEST_F(KeyPartErrors, Merges) {
  const float* const from[] = {states.data(), nullptr};
  problem.poison_outputs();
  EXPECT_EQ(merge_split_states(context, problem.args(), {}).message(),
            "states.size() is 0; expected 1 or more");
  EXPECT_EQ(merge_split_states(context, problem.args(), from).message(),
            "states[1] is null; expected the states of part 1");
  EXPECT_EQ(merge_split_states(context, problem.args(), from, 2).message(), "unit_begin is 2; expected 0..1");
  EXPECT_EQ(merge_split_states(context, problem.args(), from, 0, 2).message(),
            "unit_end is 2; expected -1, or 0..1");
  EXPECT_EQ(merge_split_states(context, problem.args(), from, 1, 0).message(),
            "unit_end is 0; expected -1, or 1..1");
  EXPECT_TRUE(problem.outputs_untouched());
}

TEST_F(KeyPartErrors, MergesOfALongSequenceAfterAShortOne) {
  c.batch = 2;
  c.seqused = {512, 700};
  const Problem two(c);
  const float* const from[] = {states.data(), nullptr};
  EXPECT_EQ(merge_split_states(context, two.args(), from).message(),
            "states[1] is null; expected the states of part 1");
  EXPECT_TRUE(two.outputs_untouched());
}

TEST_F(KeyPartErrors, MergesOfStatesComputedAhead) {
  std::vector<float> ahead = states;
  const auto merge = [&](float* to, std::vector<const float*> next, const KeyPart& part = {}) {
    return merge_running_states(context, problem.args(), part, to, next, false, false).message();
  };
  problem.poison_outputs();
  EXPECT_EQ(merge(nullptr, {ahead.data()}), "states is null; expected a tensor");
  EXPECT_EQ(merge(states.data(), {ahead.data(), nullptr}), "next[1] is null; expected the states of a split");
  EXPECT_EQ(merge(states.data(), {states.data()}),
            "next[0] is memory of states; expected the states of a split, in memory apart from states");
  EXPECT_EQ(merge(states.data(), {states.data() + 1}),
            "next[0] is memory of states; expected the states of a split, in memory apart from states");
  KeyPart part;
  part.key_begin = 3;
  EXPECT_EQ(merge(states.data(), {ahead.data()}, part),
            "part.key_begin is 3; expected a multiple of 512 in 0..2147483136");
  EXPECT_TRUE(problem.outputs_untouched());
  EXPECT_TRUE(std::all_of(states.begin(), states.end(), [](float x) { return x != x; }));
}

}  // namespace
}  // namespace kumiko::test
