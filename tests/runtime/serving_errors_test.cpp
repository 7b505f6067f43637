// SPDX-License-Identifier: Apache-2.0
// What packed sequences and pages must be: each error names the argument and leaves the outputs as they are.
#include <gtest/gtest.h>

#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include "runtime/plan.h"
#include "tests/runtime/contexts.h"
#include "tests/runtime/server_step.h"

namespace kumiko::test {
namespace {

struct ServingErrors : testing::Test {
  Context context = context_of("reference", "serial");
  StepShape s = [] {
    StepShape shape;
    shape.sequences = {{1, 40}, {5, 33}, {0, 7}};
    return shape;
  }();

  void expect_error(const ServerStep& step, const AttentionArgs& args, const std::string& message) const {
    step.poison_outputs();
    const Status status = attention_forward(context, args);
    EXPECT_EQ(status.code(), Code::invalid_argument);
    EXPECT_EQ(status.message(), message);
    EXPECT_TRUE(step.outputs_untouched());
    Plan made;
    if (!plan(context, step.args(), &made).ok()) return;
    EXPECT_FALSE(made.run(args).ok()) << message;
    EXPECT_TRUE(step.outputs_untouched());
  }
};

TEST_F(ServingErrors, EntriesOfTheBlockTable) {
  for (const std::int32_t wrong : {-1, -2147483647 - 1, 9, 2147483647}) {
    ServerStep step(s);
    ASSERT_EQ(step.args().k.shape[0], 9);
    step.table(1, 2) = wrong;
    expect_error(step, step.args(),
                 "block_table[1, 2] is " + std::to_string(wrong) +
                     "; expected 0..8 (k.shape[0] - 1), as queries see keys 0..32 of sequence 1");
  }
}

TEST_F(ServingErrors, NoPageForKeysThatAreSeen) {
  const ServerStep step(s);
  AttentionArgs args = step.args();
  args.k.shape[0] = args.v.shape[0] = 0;
  expect_error(step, args,
               "k.shape[0] is 0; expected at least one page, as queries see keys 0..39 of sequence 0");
}

TEST_F(ServingErrors, PagesOfFirstTokens) {
  s.sequences = {{1, 70}};
  s.window_left = 20, s.window_sink_tokens = 20;
  for (const std::int64_t page : {0, 1, 3, 4}) {
    ServerStep step(s);
    step.table(0, 2) = -1;  // hidden
    step.table(0, page) = -1;
    expect_error(step, step.args(),
                 "block_table[0, " + std::to_string(page) +
                     "] is -1; expected 0..6 (k.shape[0] - 1), as queries see keys " +
                     (page < 2 ? "0..19" : "49..69") + " of sequence 0");
  }
}

TEST_F(ServingErrors, PackedLengths) {
  ServerStep step(s);
  const std::vector<std::int32_t> right = step.cu_seqlens_q();
  const auto try_lengths = [&](std::vector<std::int32_t> wrong, const std::string& message) {
    AttentionArgs args = step.args();
    args.cu_seqlens_q = wrong.data();
    expect_error(step, args, message);
  };
  try_lengths({1, 1, 6, 6}, "cu_seqlens_q[0] is 1; expected 0");
  try_lengths({0, 4, 3, 6}, "cu_seqlens_q[2] is 3; expected at least cu_seqlens_q[1], which is 4");
  try_lengths({0, 1, 6, 10}, "cu_seqlens_q[3] is 10; expected at most q.shape[2], which is 9");
}

TEST_F(ServingErrors, ArgumentsThatDoNotFitTogether) {
  const ServerStep step(s);
  const auto with = [&](auto change, const std::string& message) {
    AttentionArgs args = step.args();
    change(args);
    expect_error(step, args, message);
  };
  with([](auto& a) { a.num_sequences = 0; },
       "num_sequences is 0; expected 1..1073741823, as cu_seqlens_q is given");
  with([](auto& a) { a.q.shape[0] = 2; }, "q.shape[0] (batch) is 2; expected 1, as cu_seqlens_q is given");
  with([](auto& a) { a.cu_seqlens_k = a.cu_seqlens_q; },
       "cu_seqlens_k is given; expected null, as block_table is given");
  with([](auto& a) { a.seqused_k = nullptr; },
       "seqused_k is null; expected the keys of each sequence, as block_table is given");
  with([](auto& a) { a.max_pages = 1 << 28; }, "max_pages is 268435456; expected 0..134217727");
  with([](auto& a) { a.block_table_stride = 1; },
       "block_table_stride is 1; expected 0, or at least max_pages, which is 3");
  with([](auto& a) { a.block_table_stride = std::int64_t{1} << 61; },
       "block_table_stride is 2305843009213693952; expected a table that fits in the address space");
  with([](auto& a) { a.block_table = nullptr; }, "max_pages is 3; expected 0, as block_table is null");
  with([](auto& a) { a.block_table = nullptr, a.max_pages = 0; },
       "block_table_stride is " + std::to_string(step.args().block_table_stride) +
           "; expected 0, as block_table is null");
  with([](auto& a) { a.cu_seqlens_q = nullptr; },
       "num_sequences is 3; expected 0 or q.shape[0], which is 1, without cu_seqlens_q");
  const auto address = [](const void* data) {
    std::ostringstream text;
    text << data;
    return text.str();
  };
  with([](auto& a) { a.block_table = reinterpret_cast<const std::int32_t*>(a.out.data); },
       "out.data is " + address(step.args().out.data) + "; expected memory apart from block_table");
  const void* const odd = reinterpret_cast<const std::byte*>(step.args().block_table) + 2;
  with([&](auto& a) { a.block_table = static_cast<const std::int32_t*>(odd); },
       "block_table is " + address(odd) + "; expected an address aligned to 4 bytes");
  std::vector<std::int32_t> lengths{40, 49, 7};
  with([&](auto& a) { a.seqused_k = lengths.data(); }, "seqused_k[1] is 49; expected 0..48 (kv_len)");
  StepShape large = s;
  large.page_keys = 513;
  const ServerStep pages(large);
  expect_error(pages, pages.args(),
               "k.shape[2] is 513; expected a page size in 1..512, as block_table is given");
}

TEST_F(ServingErrors, PackedKeys) {
  s.page_keys = 0;
  const ServerStep step(s);
  const auto with = [&](auto change, const std::string& message) {
    AttentionArgs args = step.args();
    change(args);
    expect_error(step, args, message);
  };
  std::vector<std::int32_t> wrong{0, 40, 39, 80}, lengths{40, 34, 7};
  with([&](auto& a) { a.cu_seqlens_k = wrong.data(); },
       "cu_seqlens_k[2] is 39; expected at least cu_seqlens_k[1], which is 40");
  with([&](auto& a) { a.seqused_k = lengths.data(); }, "seqused_k[1] is 34; expected 0..33 (kv_len)");
  with([](auto& a) { a.cu_seqlens_k = nullptr; }, "k.shape[0] (batch) is 1; expected 3, as in num_sequences");
}

// The lists of such a run are shorter than the plan's.
TEST_F(ServingErrors, ARunOfFewerSequencesThanPlanned) {
  const ServerStep step(s);
  Plan made;
  ASSERT_TRUE(plan(context, step.args(), &made).ok());
  const std::vector<std::int32_t> positions{0, 1}, lengths{40};
  AttentionArgs args = step.args();
  args.num_sequences = 1;
  args.cu_seqlens_q = positions.data();
  args.seqused_k = lengths.data();
  step.poison_outputs();
  EXPECT_EQ(made.run(args).message(), "num_sequences is 1; expected the planned 3");
  EXPECT_TRUE(step.outputs_untouched());
}

TEST_F(ServingErrors, AnUpdateBeyondAPackedSequencesKeys) {
  s.page_keys = 0;
  ServerStep step(s);
  AttentionArgs args = step.args();
  args.seqused_k = step.lengths().data();
  Plan made;
  ASSERT_TRUE(plan(context, args, &made).ok());
  const std::vector<std::int32_t> lengths{40, 34, 7};
  EXPECT_EQ(made.update(lengths).message(), "seqused_k[1] is 34; expected 0..33 (kv_len)");
}

// A mask of packed sequences has a column for each key of the longest one, which need not be the last.
TEST(PackedSequences, MasksHaveTheColumnsOfTheLongest) {
  constexpr std::int64_t kDim = 8, kQueries = 4, kKeys = 13;
  std::vector<float> q(kQueries * kDim, 1.0f), k(kKeys * kDim, 0.5f), v(k), out(q.size());
  const std::vector<std::int32_t> q_ends{0, 2, 4}, k_ends{0, 10, 13};
  const std::vector<std::uint8_t> mask(kQueries * 10, 1);
  AttentionArgs args;
  args.q = ConstTensor::bhsd(q.data(), 1, 1, kQueries, kDim);
  args.k = ConstTensor::bhsd(k.data(), 1, 1, kKeys, kDim);
  args.v = ConstTensor::bhsd(v.data(), 1, 1, kKeys, kDim);
  args.out = Tensor::bhsd(out.data(), 1, 1, kQueries, kDim);
  args.cu_seqlens_q = q_ends.data(), args.cu_seqlens_k = k_ends.data(), args.num_sequences = 2;
  args.mask = ConstTensor::bhsd(mask.data(), 1, 1, kQueries, 10, DataType::boolean);
  const Context context = context_of("", "serial");
  const Status whole = attention_forward(context, args);
  EXPECT_TRUE(whole.ok()) << whole.message();
  for (const float x : out) EXPECT_FLOAT_EQ(x, 0.5f);  // each value, and so their mean
  args.mask.shape[3] = 3;
  const Status narrow = attention_forward(context, args);
  EXPECT_NE(narrow.message().find("mask.shape[3]"), std::string::npos) << narrow.message();
}

}  // namespace
}  // namespace kumiko::test
