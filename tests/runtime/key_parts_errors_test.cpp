// SPDX-License-Identifier: Apache-2.0
// What calls on parts of the keys refuse: the error names the field, and nothing is written.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include "runtime/key_parts.h"
#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/support/numbers.h"

namespace kumiko::test {
namespace {

struct KeyPartErrors : testing::Test {
  Context context = context_of("reference", "serial");
  Case c = [] {
    Case shape;
    shape.q_len = 3, shape.kv_len = 700;
    return shape;
  }();
  Problem problem{c};
  std::vector<float> states = std::vector<float>(1000, kNan);

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

TEST_F(KeyPartErrors, AnEmptyContext) {
  std::int64_t floats = -1;
  const float* const from[] = {states.data()};
  for (const Status& status :
       {prepare_running_states(Context(), problem.args(), {}, &floats),
        prepare_split_states(Context(), problem.args(), {}, &floats),
        attention_continue(Context(), problem.args(), {}, states.data(), true, false),
        attention_split_states(Context(), problem.args(), {}, states.data()),
        merge_running_states(Context(), problem.args(), {}, states.data(), from, true, false),
        merge_split_states(Context(), problem.args(), from)}) {
    EXPECT_EQ(status.code(), Code::invalid_argument);
    EXPECT_NE(status.message().find("context is empty"), std::string::npos) << status.message();
  }
  EXPECT_EQ(floats, -1);
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
