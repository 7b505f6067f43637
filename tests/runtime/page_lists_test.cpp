// SPDX-License-Identifier: Apache-2.0
// Pages of each sequence in one list after another (kv_indptr): the bits are those of a table with rows and
// of dense calls, numbers of pages may change under a plan, and lists that cannot be are refused by name with
// nothing written. serving_test.cpp and shared_keys_test.cpp draw lists and rows at random.
#include <gtest/gtest.h>

#include <limits>
#include <numeric>
#include <sstream>

#include "runtime/plan.h"
#include "tests/runtime/contexts.h"
#include "tests/runtime/server_step.h"

namespace kumiko::test {
namespace {

constexpr std::int32_t kMost = std::numeric_limits<std::int32_t>::max();

std::string address_of(const void* data) {
  std::ostringstream text;
  text << data;
  return text.str();
}

/// The lists of a step for other lengths: of each sequence the pages that these need.
struct Lists {
  std::vector<std::int32_t> lengths, indices, indptr{0};

  Lists(ServerStep& step, std::vector<std::int32_t> used) : lengths(std::move(used)) {
    const std::int64_t page = step.args().k.shape[2];
    for (std::size_t b = 0; b < lengths.size(); ++b) {
      for (std::int64_t i = 0; i * page < lengths[b]; ++i) indices.push_back(step.table(b, i));
      indptr.push_back(static_cast<std::int32_t>(indices.size()));
    }
  }
  AttentionArgs args(const ServerStep& step) const {
    AttentionArgs a = step.args();
    a.seqused_k = lengths.data(), a.block_table = indices.data(), a.kv_indptr = indptr.data();
    return a;
  }
};

struct PageLists : testing::TestWithParam<std::string> {
  std::vector<Context> contexts = contexts_of(GetParam());
};

TEST_P(PageLists, HaveTheBitsOfATableWithRows) {
  for (const DataType type : {DataType::f32, DataType::bf16, DataType::f16}) {
    StepShape s;
    s.sequences = {{1, 1100}, {1, 1300, 0, 1024}, {0, 40}, {1, 0}, {30, 300}, {1, 1040, 0, 1024}};
    s.type = type, s.page_lists = true;
    ServerStep step(s);
    AttentionArgs rows = step.args();
    std::vector<std::int32_t> table(6 * static_cast<std::size_t>(rows.max_pages), -1);
    for (std::size_t b = 0; b < 6; ++b) {
      for (std::int32_t i = 0; i * s.page_keys < s.sequences[b].kv_len; ++i)
        table[b * static_cast<std::size_t>(rows.max_pages) + static_cast<std::size_t>(i)] = step.table(b, i);
    }
    rows.block_table = table.data(), rows.kv_indptr = nullptr;
    for (const Context& context : contexts) {
      step.poison_outputs();
      ASSERT_TRUE(attention_forward(context, rows).ok());
      std::vector<Outcome> want;
      for (std::size_t b = 0; b < 6; ++b) want.push_back(step.packed_outcome(b));
      Plan made, of_rows;
      ASSERT_TRUE(plan(context, step.args(), &made).ok());
      ASSERT_TRUE(plan(context, rows, &of_rows).ok());
      EXPECT_EQ(made.explain(), of_rows.explain());
      EXPECT_NE(made.explain().find("shared prefixes: 1 groups"), std::string::npos) << made.explain();
      step.poison_outputs();
      const Status ran = made.run(step.args());
      ASSERT_TRUE(ran.ok()) << ran.message();
      for (std::size_t b = 0; b < 6; ++b) ASSERT_TRUE(same_bits(step.packed_outcome(b), want[b]));
      ASSERT_NO_FATAL_FAILURE(expect_rows_of_sequences_alone(step, context));
    }
  }
}

// Every step of a server adds keys, and sometimes pages; here to a plan that was made for the first one.
TEST_P(PageLists, GrowUnderAPlan) {
  StepShape s;
  s.sequences = {{1, 1100}, {1, 1100, 0, 1024}, {2, 700}};
  s.page_lists = true;
  ServerStep step(s);
  for (const Context& context : contexts) {
    for (const bool with_lists : {false, true}) {
      const Lists first(step, {1030, 1025, 30});
      Plan made;
      ASSERT_TRUE(plan(context, first.args(step), &made).ok());
      for (const auto& lengths : std::vector<std::vector<std::int32_t>>{
               {1030, 1025, 30}, {1040, 1041, 33}, {1100, 1100, 700}, {1089, 1025, 2}}) {
        const Lists lists(step, lengths);
        const Status updated = with_lists ? made.update(lengths, lists.indices.data(), lists.indptr.data())
                                          : made.update(lengths);
        ASSERT_TRUE(updated.ok()) << updated.message();
        step.poison_outputs();
        const Status ran = made.run(lists.args(step));
        ASSERT_TRUE(ran.ok()) << ran.message();
        for (std::size_t b = 0; b < lengths.size(); ++b) {
          AttentionArgs alone = step.alone(b);
          alone.seqused_k = &lists.lengths[b];
          ASSERT_TRUE(attention_forward(context, alone).ok());
          ASSERT_TRUE(same_bits(step.packed_outcome(b), step.alone_outcome(b))) << "sequence " << b;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, PageLists, ::testing::ValuesIn(swept_isas()), StringName());

struct PageListErrors : testing::Test {
  Context context = context_of("reference", "serial");
  StepShape s = [] {
    StepShape shape;
    shape.sequences = {{1, 40}, {5, 33}, {0, 7}};
    shape.page_lists = true;
    return shape;
  }();

  void expect_error(const ServerStep& step, const AttentionArgs& args, const std::string& message) const {
    step.poison_outputs();
    const Status status = attention_forward(context, args);
    EXPECT_EQ(status.code(), Code::invalid_argument);
    EXPECT_EQ(status.message(), message);
    EXPECT_TRUE(step.outputs_untouched());
    Plan made;
    ASSERT_TRUE(plan(context, step.args(), &made).ok());
    EXPECT_EQ(made.run(args).code(), Code::invalid_argument) << message;
    EXPECT_TRUE(step.outputs_untouched());
  }
  void expect_error_of_lists(ServerStep& step, std::vector<std::int32_t> indptr, const std::string& message,
                             bool plan_knows = true) const {
    AttentionArgs args = step.args();
    args.kv_indptr = indptr.data();
    expect_error(step, args, message);
    Plan made;
    const Status planned = plan(context, args, &made);
    EXPECT_EQ(planned.message(), plan_knows ? message : "");
    ASSERT_TRUE(plan(context, step.args(), &made).ok());
    const Status updated = made.update(step.lengths(), args.block_table, args.kv_indptr);
    EXPECT_EQ(updated.message(), plan_knows ? message : "");
    EXPECT_TRUE(made.update(step.lengths(), step.args().block_table, step.args().kv_indptr).ok());
    EXPECT_EQ(made.run(step.args()).message(), "");
  }
};

TEST_F(PageListErrors, NumbersOfPages) {
  ServerStep step(s);
  ASSERT_EQ(step.args().max_pages, 3);
  expect_error_of_lists(step, {-1, 2, 5, 6}, "kv_indptr[0] is -1; expected 0 or more");
  expect_error_of_lists(step, {-kMost - 1, 2, 5, 6}, "kv_indptr[0] is -2147483648; expected 0 or more");
  expect_error_of_lists(step, {0, 3, 2, 6}, "kv_indptr[2] is 2; expected at least kv_indptr[1], which is 3");
  expect_error_of_lists(step, {0, 3, 6, 5}, "kv_indptr[3] is 5; expected at least kv_indptr[2], which is 6");
  expect_error_of_lists(step, {0, 3, kMost, -kMost - 1},
                        "kv_indptr[2] - kv_indptr[1] is 2147483644; expected at most max_pages, which is 3");
  expect_error_of_lists(step, {0, 3, 3, -kMost - 1},
                        "kv_indptr[3] is -2147483648; expected at least kv_indptr[2], which is 3");
  expect_error_of_lists(step, {0, 3, 6, 10},
                        "kv_indptr[3] - kv_indptr[2] is 4; expected at most max_pages, which is 3");
}

// Only the pages of keys that queries see must be listed: here not those of the sequence without queries.
TEST_F(PageListErrors, FewerPagesThanKeysNeed) {
  ServerStep step(s);
  const std::int32_t first = step.kv_indptr()[0];
  expect_error_of_lists(step, {first, first + 3, first + 5, first + 5},
                        "kv_indptr[2] - kv_indptr[1] is 2; expected at least 3 pages of 16 keys, as queries "
                        "see keys 0..32 of sequence 1",
                        false);
  AttentionArgs args = step.args();
  std::vector<std::int32_t> indptr(step.kv_indptr());
  indptr[3] = indptr[2];
  args.kv_indptr = indptr.data();
  step.poison_outputs();
  EXPECT_EQ(attention_forward(context, args).message(), "");
  s.sequences = {{1, 70}}, s.window_left = 20, s.window_sink_tokens = 20;
  ServerStep window(s);
  const std::int32_t at = window.kv_indptr()[0];
  expect_error_of_lists(window, {at, at + 1},
                        "kv_indptr[1] - kv_indptr[0] is 1; expected at least 2 pages of 16 keys, as queries "
                        "see keys 0..19 of sequence 0",
                        false);
  expect_error_of_lists(window, {at, at + 4},
                        "kv_indptr[1] - kv_indptr[0] is 4; expected at least 5 pages of 16 keys, as queries "
                        "see keys 49..69 of sequence 0",
                        false);
}

// A plan that is given too few pages looks no further than these for what sequences share.
TEST_F(PageListErrors, PagesOfTheNextSequenceAreNotShared) {
  s.sequences = {{1, 600}, {1, 600, 0, 600}};
  s.page_keys = 64;
  ServerStep step(s);
  std::vector<std::int32_t> indices, indptr{0, 10, 17};
  for (std::int64_t i = 0; i < 10; ++i) indices.push_back(step.table(0, i));
  for (std::int64_t i = 0; i < 10; ++i) indices.push_back(step.table(0, i));
  AttentionArgs args = step.args();
  args.block_table = indices.data(), args.kv_indptr = indptr.data();
  Plan made;
  ASSERT_TRUE(plan(context, args, &made).ok());
  EXPECT_TRUE(impl_of(made)->partition.shared.groups.empty());
  indptr[2] = 18;
  ASSERT_TRUE(plan(context, args, &made).ok());
  EXPECT_EQ(impl_of(made)->partition.shared.groups.size(), 1u);
}

TEST_F(PageListErrors, Entries) {
  for (const std::int32_t wrong : {-1, -kMost - 1, 9, kMost}) {
    ServerStep step(s);
    ASSERT_EQ(step.args().k.shape[0], 9);
    step.table(1, 2) = wrong;
    expect_error(step, step.args(),
                 "block_table[kv_indptr[1] + 2] is " + std::to_string(wrong) +
                     "; expected 0..8 (k.shape[0] - 1), as queries see keys 0..32 of sequence 1");
  }
}

TEST_F(PageListErrors, ARunWhoseSequencesShareNoPages) {
  s.sequences = {{1, 1100}, {1, 1100, 0, 1024}};
  ServerStep step(s);
  Plan made;
  ASSERT_TRUE(plan(context, step.args(), &made).ok());
  const std::int32_t right = step.table(0, 40), other = step.table(1, 68);
  step.table(1, 40) = other;
  step.poison_outputs();
  EXPECT_EQ(made.run(step.args()).message(),
            "block_table[kv_indptr[1] + 40] is " + std::to_string(other) + "; expected " +
                std::to_string(right) +
                " as in sequence 0, with which it shared its first 1024 keys in the table that "
                "plan() or update() was given");
  EXPECT_TRUE(step.outputs_untouched());
}

TEST_F(PageListErrors, ArgumentsThatDoNotFitTogether) {
  ServerStep step(s);
  const auto with = [&](auto change, const std::string& message) {
    AttentionArgs args = step.args();
    change(args);
    expect_error(step, args, message);
  };
  with([](auto& a) { a.block_table_stride = 3; },
       "block_table_stride is 3; expected 0, as kv_indptr is given");
  with([](auto& a) { a.block_table = nullptr, a.max_pages = 0; },
       "kv_indptr is given; expected null, as block_table is null");
  const void* const odd = reinterpret_cast<const std::byte*>(step.args().kv_indptr) + 2;
  with([&](auto& a) { a.kv_indptr = static_cast<const std::int32_t*>(odd); },
       "kv_indptr is " + address_of(odd) + "; expected an address aligned to 4 bytes");
  const std::string out = "out.data is " + address_of(step.args().out.data) + "; expected memory apart from ";
  with([](auto& a) { a.block_table = static_cast<const std::int32_t*>(a.out.data); }, out + "block_table");
  std::vector<std::int32_t> numbers(step.kv_indptr());
  numbers.resize(4 * 9 * 24);  // all that such an output covers
  with(
      [&](auto& a) {
        a.kv_indptr = numbers.data();
        a.out = Tensor::bhsd(numbers.data(), 1, 4, 9, 24), a.lse = {};
      },
      "out.data is " + address_of(numbers.data()) + "; expected memory apart from kv_indptr");
}

TEST_F(PageListErrors, WhatAnUpdateIsGiven) {
  ServerStep step(s);
  Plan made, of_rows;
  ASSERT_TRUE(plan(context, step.args(), &made).ok());
  const std::int32_t *const list = step.args().block_table, *const indptr = step.args().kv_indptr;
  EXPECT_EQ(made.update(step.lengths(), nullptr, indptr).message(),
            "kv_indptr is given; expected null, as block_table is null");
  EXPECT_EQ(made.update(step.lengths(), list).message(),
            "kv_indptr is null; expected given with block_table, as the plan was made with it");
  s.page_lists = false;
  ServerStep rows(s);
  ASSERT_TRUE(plan(context, rows.args(), &of_rows).ok());
  EXPECT_EQ(of_rows.update(rows.lengths(), rows.args().block_table, indptr).message(),
            "kv_indptr is given; expected null, as the plan was made without it");
}

// The sums of these numbers are beyond 2^31, the addresses beyond memory.
TEST_F(PageListErrors, ListsInNoMemory) {
  s.sequences = {{1, 3}, {1, 2}}, s.page_keys = 1;
  ServerStep step(s);
  AttentionArgs args = step.args();
  args.max_pages = kMost;
  const std::vector<std::int32_t> indptr{0, kMost - 1, kMost};
  args.kv_indptr = indptr.data();
  const std::uintptr_t last = std::numeric_limits<std::uintptr_t>::max() - 4095;
  std::memcpy(&args.block_table, &last, sizeof last);
  step.poison_outputs();
  EXPECT_EQ(attention_forward(context, args).message(),
            "block_table is " + address_of(args.block_table) +
                "; expected an address from which the tensor fits in memory");
  EXPECT_TRUE(step.outputs_untouched());
}

// Sequences without keys read no list, wherever it may be: here it seems to begin just before an output.
TEST_F(PageListErrors, NoPagesAtAll) {
  s.sequences = {{1, 0}, {3, 0}}, s.q_layout = Layout::bhsd;
  ServerStep step(s);
  const std::vector<std::int32_t> indptr{kMost, kMost, kMost};
  AttentionArgs args = step.args();
  args.kv_indptr = indptr.data();
  args.block_table = static_cast<const std::int32_t*>(args.out.data) - 1;
  step.poison_outputs();
  const Status status = attention_forward(context, args);
  ASSERT_TRUE(status.ok()) << status.message();
  ASSERT_NO_FATAL_FAILURE(expect_rows_of_sequences_alone(step, context));
}

}  // namespace
}  // namespace kumiko::test
