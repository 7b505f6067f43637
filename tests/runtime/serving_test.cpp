// SPDX-License-Identifier: Apache-2.0
// Packed sequences and pages: every row has the bits of its sequence's own dense call, whatever the batch,
// the pages and their order, and nothing that no query sees is read.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <sstream>

#include "runtime/plan.h"
#include "tests/runtime/contexts.h"
#include "tests/runtime/server_step.h"

namespace kumiko::test {
namespace {

constexpr DataType kTypes[] = {DataType::f32, DataType::bf16, DataType::f16};

void expect_bits(const ServerStep& step, const Context& context) {
  step.poison_outputs();
  const Status packed = attention_forward(context, step.args());
  ASSERT_TRUE(packed.ok()) << packed.message();
  expect_rows_of_sequences_alone(step, context);
}

struct Serving : testing::TestWithParam<std::string> {
  std::vector<Context> contexts = contexts_of(GetParam());
  Random random{test_seed(71)};

  /// Some sequences of each kind: decodes, speculative blocks, chunks of a prompt, nothing.
  std::vector<StepSequence> sequences(int count) {
    std::vector<StepSequence> all;
    for (int i = 0; i < count; ++i) {
      const std::int64_t longest = random.pick<std::int64_t>({3, 40, 300, 700, 1300});
      const auto kv_len = static_cast<std::int32_t>(random.between(0, longest));
      const auto q_len = static_cast<std::int32_t>(
          random.pick({std::int64_t{1}, std::int64_t{1}, random.between(0, 9), random.between(0, 150)}));
      all.push_back({q_len, kv_len});
    }
    return all;
  }
  StepShape shape() {
    StepShape s;
    s.sequences = sequences(static_cast<int>(random.between(1, 6)));
    s.kv_heads = random.between(1, 2), s.q_heads = s.kv_heads * random.between(1, 4);
    s.head_dim = random.pick({1, 7, 16, 40, 64, 72}), s.v_head_dim = random.pick({1, 8, 24, 64});
    s.type = kTypes[random.between(0, 2)];
    s.page_keys = random.pick({0, 1, 2, 3, 7, 16, 16, 24, 32, 48, 64, 100, 128, 256, 512});
    s.q_layout = random.pick({Layout::bhsd, Layout::bshd, Layout::padded, Layout::padded_bshd});
    s.k_layout = random.pick({Layout::bhsd, Layout::bshd, Layout::padded});
    s.v_layout = random.pick({Layout::bhsd, Layout::bshd, Layout::padded});
    s.is_causal = random.one_in(2);
    s.alignment = random.pick(
        {CausalAlignment::bottom_right, CausalAlignment::bottom_right, CausalAlignment::top_left});
    if (random.one_in(3)) s.window_left = random.pick({0, 5, 40, 300});
    if (random.one_in(5)) s.window_right = random.pick({0, 3, 70});
    if (random.one_in(5)) s.softcap = 3.0f;
    s.bias = random.one_in(5), s.mask = random.one_in(5), s.alibi = random.one_in(5);
    s.sinks = random.one_in(3);
    if (random.one_in(2)) s.window_sink_tokens = random.pick({1, 4, 16, 70, 300});
    s.causal_sequences = random.one_in(3), s.prefix_lens = random.one_in(3);
    s.page_lists = random.one_in(2);
    s.key_tiles = s.page_keys > 0 && s.page_keys % 16 == 0 && random.one_in(2);
    s.seed = random.bits();
    return s;
  }
};

TEST_P(Serving, RowsHaveTheBitsOfTheirSequenceAlone) {
  for (int repeat = 0; repeat < thinned(120, 20, 6); ++repeat) {
    const StepShape s = shape();
    SCOPED_TRACE(::testing::Message() << s);
    const ServerStep step(s);
    ASSERT_NO_FATAL_FAILURE(expect_bits(step, random.pick(contexts)));
  }
}

TEST_P(Serving, EveryPageSizeAndType) {
  int n = 0;
  for (const std::int64_t page : {1, 2, 15, 16, 17, 31, 32, 33, 48, 64, 128, 200, 256, 257, 512}) {
    for (const DataType type : kTypes) {
      if (n++ % thinned(1, 2, 4) != 0) continue;  // steps coprime to the lists' lengths: each entry occurs
      StepShape s;
      s.sequences = {{1, 600}, {3, 513}, {70, 300}, {1, static_cast<std::int32_t>(page)}, {1, 1}};
      s.type = type;
      s.page_keys = page;
      s.page_lists = (page + static_cast<int>(type)) % 2 == 1;
      s.k_layout = page % 2 == 0 ? Layout::bshd : Layout::bhsd;
      s.seed = static_cast<std::uint64_t>(page);
      SCOPED_TRACE(::testing::Message() << s);
      ASSERT_NO_FATAL_FAILURE(expect_bits(ServerStep(s), contexts[0]));
    }
  }
}

TEST_P(Serving, ForcedPipelinesTakePages) {
  for (const Pipeline pipeline : kPipelines) {
    StepShape s;
    s.sequences = {{1, 530}, {20, 70}, {5, 1100}};
    s.page_keys = 32;
    s.window_left = 600;
    const ServerStep step(s);
    AttentionArgs args = step.args();
    args.pipeline = pipeline;
    step.poison_outputs();
    const Status status = attention_forward(contexts[1], args);
    ASSERT_TRUE(status.ok()) << status.message();
    ASSERT_NO_FATAL_FAILURE(expect_rows_of_sequences_alone(step, contexts[1]));
  }
}

// A server frees the pages that a window has left behind.
TEST_P(Serving, PagesBeforeTheWindowNeedNotExist) {
  // The first keys that are seen, 869 and 731, are odd and begin a page of 1, of 11 and of 17 keys: the one
  // before them, which products of pairs compute too, lies in a page that does not exist.
  for (const std::int64_t page : {1, 11, 16, 17, 24, 64}) {
    for (const DataType type : kTypes) {
      StepShape s;
      s.sequences = {{1, 1000}, {40, 901}};
      s.page_keys = page;
      s.page_lists = (page + static_cast<int>(type)) % 2 == 1;
      s.type = type;
      s.window_left = 130;
      ServerStep step(s);
      for (std::size_t b = 0; b < step.sequences(); ++b) {
        const std::int64_t first = s.sequences[b].kv_len - s.sequences[b].q_len - s.window_left;
        for (std::int64_t i = 0; i < first / page; ++i) step.table(b, i) = i % 2 == 0 ? 2147483647 : -1;
      }
      SCOPED_TRACE(::testing::Message() << s);
      ASSERT_NO_FATAL_FAILURE(expect_bits(step, contexts[1]));
    }
  }
}

// Pages of 1, 11 and 17 keys: first tokens and the window begin and end in the middle of pages, and of pairs.
TEST_P(Serving, PagesBetweenFirstTokensAndTheWindowNeedNotExist) {
  int n = 0;
  for (const std::int64_t page : {1, 11, 16, 17, 24, 64}) {
    for (const DataType type : kTypes) {
      for (const std::int64_t first_tokens : {1, 4, 33, 600}) {
        if (n++ % thinned(1, 5, 7) != 0) continue;
        StepShape s;
        s.sequences = {{1, 1900}, {40, 1701}, {1, 90}, {3, 140}};
        s.page_keys = page;
        s.page_lists = (page + static_cast<int>(type)) % 2 == 1;
        s.type = type;
        s.window_left = 130;
        s.window_sink_tokens = first_tokens;
        ServerStep step(s);
        int hidden = 0;
        for (std::size_t b = 0; b < step.sequences(); ++b) {
          const std::int64_t window = s.sequences[b].kv_len - s.sequences[b].q_len - s.window_left;
          for (std::int64_t i = (first_tokens + page - 1) / page; i < window / page; ++i, ++hidden)
            step.table(b, i) = i % 2 == 0 ? 2147483647 : -1;
        }
        ASSERT_GT(hidden, 0);
        SCOPED_TRACE(::testing::Message() << s);
        ASSERT_NO_FATAL_FAILURE(expect_bits(step, random.pick(contexts)));
      }
    }
  }
}

TEST_P(Serving, ATableWithoutAStrideHasRowsOfMaxPages) {
  StepShape s;
  s.sequences = {{1, 70}, {12, 33}, {3, 50}};
  ServerStep step(s);
  AttentionArgs args = step.args();
  std::vector<std::int32_t> rows;
  for (std::size_t b = 0; b < step.sequences(); ++b)
    for (std::int64_t i = 0; i < args.max_pages; ++i) rows.push_back(step.table(b, i));
  args.block_table = rows.data();
  args.block_table_stride = 0;
  step.poison_outputs();
  const Status status = attention_forward(contexts[1], args);
  ASSERT_TRUE(status.ok()) << status.message();
  ASSERT_NO_FATAL_FAILURE(expect_rows_of_sequences_alone(step, contexts[1]));
}

TEST_P(Serving, OnePlanServesOtherPagesAndLengths) {
  StepShape s;
  s.sequences = {{1, 700}, {2, 511}, {1, 40}};
  s.page_keys = 16;
  ServerStep step(s);
  for (const Context& context : contexts) {
    Plan made;
    ASSERT_TRUE(plan(context, step.args(), &made).ok());
    for (int repeat = 0; repeat < 3; ++repeat) {
      step.move_pages();
      step.poison_outputs();
      const Status ran = made.run(step.args());
      ASSERT_TRUE(ran.ok()) << ran.message();
      ASSERT_NO_FATAL_FAILURE(expect_rows_of_sequences_alone(step, context));
    }
    const std::vector<std::int32_t> grown{701, 512, 41}, lengths = step.lengths();
    StepShape longer = s;
    for (std::size_t b = 0; b < grown.size(); ++b) longer.sequences[b].kv_len = grown[b];
    const ServerStep next(longer);
    ASSERT_EQ(next.args().max_pages, step.args().max_pages);
    ASSERT_TRUE(made.update(grown).ok());
    AttentionArgs args = next.args();
    args.block_table_stride = step.args().block_table_stride;
    if (args.block_table_stride == next.args().block_table_stride) {
      next.poison_outputs();
      const Status ran = made.run(args);
      ASSERT_TRUE(ran.ok()) << ran.message();
      ASSERT_NO_FATAL_FAILURE(expect_rows_of_sequences_alone(next, context));
    }
  }
}

TEST_P(Serving, DecodesAndPromptsInOneCallHaveAPipelineEach) {
  StepShape s;
  s.sequences = {{1, 600}, {400, 500}, {1, 80}, {2, 90}};
  const ServerStep step(s);
  Plan made;
  ASSERT_TRUE(plan(contexts[1], step.args(), &made).ok());
  std::set<std::string> of_prompt, of_decodes;
  for (const PlannedTask& task : impl_of(made)->partition.tasks)
    (task.batch == 1 ? of_prompt : of_decodes).insert(task.pipeline->name);
  EXPECT_EQ(of_prompt, std::set<std::string>{"online"});
  EXPECT_EQ(of_decodes, std::set<std::string>{"decode"});
  const std::string text = made.explain();
  EXPECT_NE(text.find("sequences 4"), std::string::npos) << text;
  EXPECT_NE(text.find("q_len 1..400"), std::string::npos) << text;
  EXPECT_NE(text.find("pages of 16 keys"), std::string::npos) << text;
  EXPECT_NE(text.find("pipeline: decode up to "), std::string::npos) << text;
}

INSTANTIATE_TEST_SUITE_P(Isas, Serving, ::testing::ValuesIn(swept_isas()), StringName());

// Each error names the argument and leaves the outputs as they are.
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
  args.mask.shape[3] = 3;
  const Status narrow = attention_forward(context, args);
  EXPECT_NE(narrow.message().find("mask.shape[3]"), std::string::npos) << narrow.message();
}

}  // namespace
}  // namespace kumiko::test
