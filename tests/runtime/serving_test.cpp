// SPDX-License-Identifier: Apache-2.0
// Packed sequences and pages: every row has the bits of its sequence's own dense call, whatever the batch,
// the pages and their order, and nothing that no query sees is read.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

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

TEST_P(Serving, EveryDim) {
  for (const std::int64_t dim : {1, 31, 40, 72, 80, 96, 112, 128, 256, 512, 576}) {
    for (const DataType type : kTypes) {
      if (!random.one_in(thinned(1, 4, 8))) continue;
      StepShape s;
      s.page_keys = random.pick({16, 24, 512});
      s.sequences = {{1, 270}, {20, 50}, {2, 19}};
      s.head_dim = dim, s.v_head_dim = dim == 576 ? 512 : dim == 512 ? 576 : dim;
      s.q_heads = 6, s.kv_heads = random.pick({1, 2, 6});
      s.type = type, s.seed = static_cast<std::uint64_t>(dim);
      SCOPED_TRACE(::testing::Message() << s);
      ASSERT_NO_FATAL_FAILURE(expect_bits(ServerStep(s), random.pick(contexts)));
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

// Keys in use are fewer than a sequence's rows of k, under one plan and another number of them.
TEST_P(Serving, PackedKeysThatAreUsedInPart) {
  StepShape s;
  s.sequences = {{1, 700}, {40, 530}, {3, 0}, {2, 90}};
  s.page_keys = 0;
  for (const DataType type : kTypes) {
    s.type = type;
    const ServerStep step(s);
    for (const Context& context : contexts) {
      std::vector<std::int32_t> lengths{700, 530, 0, 90};
      AttentionArgs args = step.args();
      args.seqused_k = lengths.data();
      Plan made;
      ASSERT_TRUE(plan(context, args, &made).ok());
      for (const std::vector<std::int32_t>& used :
           std::vector<std::vector<std::int32_t>>{{513, 41, 0, 1}, {1, 530, 0, 0}, {700, 7, 0, 89}}) {
        lengths = used;
        ASSERT_TRUE(made.update(used).ok());
        for (const bool is_planned : {true, false}) {
          step.poison_outputs();
          const Status ran = is_planned ? made.run(args) : attention_forward(context, args);
          ASSERT_TRUE(ran.ok()) << ran.message();
          for (std::size_t b = 0; b < used.size(); ++b) {
            AttentionArgs alone = step.alone(b);
            alone.k.shape[2] = alone.v.shape[2] = used[b];
            ASSERT_TRUE(attention_forward(context, alone).ok());
            ASSERT_TRUE(same_bits(step.packed_outcome(b), step.alone_outcome(b))) << "sequence " << b;
          }
          ASSERT_TRUE(step.borders_intact());
        }
      }
    }
  }
}

// Queries one after another, keys in a cache of the same capacity for each sequence.
TEST_P(Serving, PackedQueriesOverDenseKeys) {
  StepShape s;
  s.sequences = {{1, 600}, {40, 70}, {0, 9}, {3, 530}};
  const ServerStep step(s);
  constexpr std::int64_t kCapacity = 610;
  const GuardedTensor k({4, s.kv_heads, kCapacity, s.head_dim}, Layout::padded_bshd, Flush::back),
      v({4, s.kv_heads, kCapacity, s.v_head_dim}, Layout::bhsd, Flush::back);
  const auto copy = [](const ConstTensor& from, std::int64_t b, const GuardedTensor& to) {
    for (std::int64_t h = 0; h < from.shape[1]; ++h)
      for (std::int64_t j = 0; j < from.shape[2]; ++j)
        std::copy_n(static_cast<const float*>(from.data) + h * from.stride[1] + j * from.stride[2],
                    from.shape[3], &to.at(b, h, j, 0));
  };
  for (std::size_t b = 0; b < step.sequences(); ++b) {
    copy(step.alone(b).k, static_cast<std::int64_t>(b), k);
    copy(step.alone(b).v, static_cast<std::int64_t>(b), v);
  }
  AttentionArgs args = step.args();
  args.k = k.input(), args.v = v.input();
  args.block_table = nullptr, args.max_pages = args.block_table_stride = 0;
  for (const Context& context : contexts) {
    step.poison_outputs();
    const Status status = attention_forward(context, args);
    ASSERT_TRUE(status.ok()) << status.message();
    ASSERT_NO_FATAL_FAILURE(expect_rows_of_sequences_alone(step, context));
  }
}

// Rows of one length each, keys one after another.
TEST_P(Serving, DenseQueriesOverPackedKeys) {
  Case c;
  c.batch = 3, c.q_heads = 4, c.kv_heads = 2, c.q_len = 5, c.kv_len = 90, c.is_causal = true;
  c.k_layout = c.v_layout = Layout::bshd;  // [batch, seq, ...] is one list of rows
  const Problem problem(c);
  const Outcome want = problem.run(contexts[0]);
  const std::int32_t begin[] = {0, 90, 180, 270};
  AttentionArgs args = problem.args();
  args.cu_seqlens_k = begin;
  for (ConstTensor* t : {&args.k, &args.v}) t->shape[2] *= t->shape[0], t->shape[0] = 1;
  for (const std::int64_t sequences : {0, 3}) {
    args.num_sequences = sequences;
    EXPECT_TRUE(same_bits(problem.run(random.pick(contexts), args), want));
  }
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
    const std::vector<std::int32_t> grown{701, 512, 41};
    StepShape longer = s;
    for (std::size_t b = 0; b < grown.size(); ++b) longer.sequences[b].kv_len = grown[b];
    longer.seed = s.seed + 1;
    ServerStep next(longer);
    ASSERT_EQ(next.args().max_pages, step.args().max_pages);
    ASSERT_TRUE(made.update(grown).ok());
    AttentionArgs args = next.args();
    // The steps' tables have rows of their own lengths; the plan's are those of the first.
    args.block_table_stride = step.args().block_table_stride;
    std::vector<std::int32_t> table(grown.size() * static_cast<std::size_t>(args.block_table_stride), -1);
    for (std::size_t b = 0; b < grown.size(); ++b)
      for (std::int32_t i = 0; i * s.page_keys < grown[b]; ++i)
        table[b * static_cast<std::size_t>(args.block_table_stride) + static_cast<std::size_t>(i)] =
            next.table(b, i);
    args.block_table = table.data();
    next.poison_outputs();
    const Status ran = made.run(args);
    ASSERT_TRUE(ran.ok()) << ran.message();
    ASSERT_NO_FATAL_FAILURE(expect_rows_of_sequences_alone(next, context));
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

}  // namespace
}  // namespace kumiko::test
