// SPDX-License-Identifier: Apache-2.0
// Sequences whose tables begin with the same pages: their keys are read once, and every row keeps the bits of
// its sequence's own dense call.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "runtime/plan.h"
#include "runtime/traffic.h"
#include "tests/runtime/contexts.h"
#include "tests/runtime/server_step.h"

namespace kumiko::test {
namespace {

constexpr DataType kTypes[] = {DataType::f32, DataType::bf16, DataType::f16};

void run_and_compare(const ServerStep& step, const Context& context, Plan& made) {
  step.poison_outputs();
  const Status ran = made.run(step.args());
  ASSERT_TRUE(ran.ok()) << ran.message();
  ASSERT_NO_FATAL_FAILURE(expect_rows_of_sequences_alone(step, context));
}

Plan planned(const Context& context, const AttentionArgs& args) {
  Plan made;
  const Status status = plan(context, args, &made);
  EXPECT_TRUE(status.ok()) << status.message();
  return made;
}

const SharedGroups& groups_of(const Plan& made) {
  return impl_of(made)->partition.shared;
}

/// Bytes of K and V that all tasks read.
std::int64_t bytes_of_tasks(const Plan& made) {
  const Traffic traffic = planned_traffic(*impl_of(made));
  return traffic.total_local() + traffic.total_remote();
}

/// `count` decodes with `shared` keys in common and `own` of their own.
StepShape decodes(int count, std::int32_t shared, std::int32_t own) {
  StepShape s;
  for (int b = 0; b < count; ++b)
    s.sequences.push_back({1, shared + own, b == 0 ? -1 : 0, b == 0 ? 0 : shared});
  return s;
}

struct SharedKeysOfPages : testing::TestWithParam<std::string> {
  std::vector<Context> contexts = contexts_of(GetParam());
  Random random{test_seed(83)};

  /// A forest: each sequence goes on from some keys of an earlier one, or is a root.
  StepShape forest() {
    StepShape s;
    const std::int64_t count = random.between(2, 9);
    for (std::int64_t b = 0; b < count; ++b) {
      StepSequence one{static_cast<std::int32_t>(random.pick({1, 1, 1, 2, 3, 40})), 0};
      one.kv_len = one.q_len + static_cast<std::int32_t>(random.between(0, 2200));
      if (b > 0 && !random.one_in(4)) {
        one.parent = static_cast<std::int32_t>(random.between(0, b - 1));
        const std::int32_t of_parent = s.sequences[static_cast<std::size_t>(one.parent)].kv_len;
        one.shared_keys = static_cast<std::int32_t>(random.between(0, std::min(of_parent, one.kv_len)));
      }
      s.sequences.push_back(one);
    }
    s.kv_heads = random.between(1, 2), s.q_heads = s.kv_heads * random.between(1, 5);
    s.head_dim = random.pick({1, 16, 40, 64}), s.v_head_dim = random.pick({1, 24, 64});
    s.type = kTypes[random.between(0, 2)];
    s.page_keys = random.pick({1, 3, 16, 16, 32, 100, 128, 256, 512});
    s.q_layout = random.pick({Layout::bhsd, Layout::bshd, Layout::padded_bshd});
    s.k_layout = random.pick({Layout::bhsd, Layout::bshd, Layout::padded});
    s.is_causal = !random.one_in(3);
    if (random.one_in(4)) s.alignment = CausalAlignment::top_left;
    if (random.one_in(5)) s.softcap = 3.0f;
    s.sinks = random.one_in(4);
    s.causal_sequences = random.one_in(5), s.prefix_lens = random.one_in(3);
    s.page_lists = random.one_in(2);
    s.key_tiles = s.page_keys % 16 == 0 && random.one_in(2);
    s.seed = random.bits();
    return s;
  }
};

TEST_P(SharedKeysOfPages, RowsHaveTheBitsOfTheirSequenceAlone) {
  int with_groups = 0;
  for (int repeat = 0; repeat < thinned(40, 10, 4); ++repeat) {
    const StepShape s = forest();
    SCOPED_TRACE(::testing::Message() << s);
    const ServerStep step(s);
    const Context& context = random.pick(contexts);
    Plan made = planned(context, step.args());
    with_groups += !groups_of(made).groups.empty();
    ASSERT_NO_FATAL_FAILURE(run_and_compare(step, context, made));
  }
  EXPECT_GT(with_groups, 0);
}

TEST_P(SharedKeysOfPages, ManyRowsAreTilesAndFewAreDecoded) {
  for (const auto& [count, pipeline] : {std::pair{3, "decode"}, {30, "online"}}) {
    for (const DataType type : kTypes) {
      StepShape s = decodes(count, 1024, 70);
      s.type = type;
      SCOPED_TRACE(::testing::Message() << s);
      const ServerStep step(s);
      for (std::size_t i = 0; i < thinned(contexts.size(), std::size_t{2}, std::size_t{1}); ++i) {
        const Context& context = contexts[contexts.size() - 1 - i];
        Plan made = planned(context, step.args());
        for (const PlannedTask& task : impl_of(made)->partition.tasks)
          ASSERT_STREQ(task.pipeline->name, task.shared >= 0 ? pipeline : "decode");
        ASSERT_NO_FATAL_FAILURE(run_and_compare(step, context, made));
      }
    }
  }
}

// In tiles the task with the first splits stores one state of them; those of a branch have a state each.
TEST_P(SharedKeysOfPages, FirstSplitsAreMergedInTiles) {
  StepShape s = decodes(24, 1536, 70);
  for (std::size_t b = 1; b < 24; b += 2)
    s.sequences[b].kv_len = 2700, s.sequences[b].parent = b == 1 ? 0 : 1;
  for (std::size_t b = 3; b < 24; b += 2) s.sequences[b].shared_keys = 2560;
  s.q_heads = 4, s.kv_heads = 2;
  for (const DataType type : kTypes) {
    s.type = type;
    const ServerStep step(s);
    for (const Context& context : contexts) {
      Plan made = planned(context, step.args());
      const Partition& partition = impl_of(made)->partition;
      ASSERT_EQ(partition.shared.groups.size(), 2u);
      for (std::size_t g = 0; g < 2; ++g) {
        const std::int64_t merged_end =
            partition.merges[static_cast<std::size_t>(partition.shared_merges) + 2 * g].merged_end;
        if (partition.shared.groups[g].split_begin > 0) {
          EXPECT_EQ(merged_end, 0);
        } else if (&context == &contexts[0]) {
          EXPECT_EQ(merged_end, 3);
        }
      }
      ASSERT_NO_FATAL_FAILURE(run_and_compare(step, context, made));
    }
  }
}

TEST_P(SharedKeysOfPages, BranchesOfATreeShareAllTheyHaveInCommon) {
  StepShape s;
  // Four share 1024 keys, two of them 2048; the fifth stands alone; the last three share 512 of theirs.
  s.sequences = {{1, 2100}, {1, 1100, 0, 1024}, {1, 2500, 0, 2048}, {2, 1600, 0, 1050},
                 {1, 900},  {1, 1200},          {1, 600, 5, 512},   {3, 620, 5, 520}};
  const ServerStep step(s);
  for (const Context& context : contexts) {
    Plan made = planned(context, step.args());
    const SharedGroups& shared = groups_of(made);
    std::vector<std::vector<std::int64_t>> found;
    for (const SharedKeys& group : shared.groups)
      found.push_back({group.split_begin, group.split_end, group.last - group.first,
                       group.position_end - group.position_begin});
    std::sort(found.begin(), found.end());
    EXPECT_EQ(found, (std::vector<std::vector<std::int64_t>>{{0, 1, 3, 5}, {0, 2, 4, 5}, {2, 4, 2, 2}}));
    const std::int64_t saved = (3 * 1024 + 1024 + 2 * 512) * 2 * (16 + 24) * 4;
    EXPECT_NE(made.explain().find("shared prefixes: 3 groups of sequences, " + std::to_string(saved) +
                                  " bytes of K and V less to read\n"),
              std::string::npos)
        << made.explain();
    ASSERT_NO_FATAL_FAILURE(run_and_compare(step, context, made));
  }
}

TEST_P(SharedKeysOfPages, BytesReadAreThoseOfOneSequenceAndTheOthersOwn) {
  const StepShape s = decodes(16, 4096, 512);
  const ServerStep step(s);
  const Plan made = planned(contexts[0], step.args());
  const std::int64_t key_bytes = 2 * (16 + 24) * 4;
  EXPECT_EQ(bytes_of_tasks(made), (4096 + 16 * 512) * key_bytes);
}

TEST_P(SharedKeysOfPages, LengthsMayChangeUnderAPlan) {
  StepShape s = decodes(5, 1536, 0);
  for (StepSequence& one : s.sequences) one.kv_len += 400;
  ServerStep step(s);
  for (const Context& context : contexts) {
    Plan made = planned(context, step.args());
    EXPECT_EQ(groups_of(made).groups.size(), 1u);
    // Longer, into another split, within the shared keys, to their border, to nothing, and back.
    for (const std::vector<std::int32_t>& lengths :
         std::vector<std::vector<std::int32_t>>{{1936, 1900, 1800, 1700, 1600},
                                                {1537, 1536, 1535, 1025, 1024},
                                                {100, 1936, 1, 513, 512},
                                                {0, 0, 1936, 1936, 0},
                                                {1936, 1936, 1936, 1936, 1936}}) {
      ASSERT_TRUE(made.update(lengths).ok());
      AttentionArgs args = step.args();
      args.seqused_k = lengths.data();
      step.poison_outputs();
      const Status ran = made.run(args);
      ASSERT_TRUE(ran.ok()) << ran.message();
      for (std::size_t b = 0; b < step.sequences(); ++b) {
        AttentionArgs alone = step.alone(b);
        alone.seqused_k = &lengths[b];
        ASSERT_TRUE(attention_forward(context, alone).ok());
        ASSERT_TRUE(same_bits(step.packed_outcome(b), step.alone_outcome(b))) << "sequence " << b;
      }
    }
  }
}

// The first of several queries sees less than the last one, and the last split stays a sequence's own.
TEST_P(SharedKeysOfPages, OnlySplitsThatEveryRowSeesWhole) {
  for (const std::vector<StepSequence>& sequences : std::vector<std::vector<StepSequence>>{
           {{4, 1026}, {4, 1026, 0, 1024}, {3, 1027, 0, 1024}}, {{1, 1024}, {1, 1024, 0, 1024}}}) {
    StepShape s;
    s.sequences = sequences;
    SCOPED_TRACE(::testing::Message() << s);
    const ServerStep step(s);
    for (const Context& context : contexts) {
      Plan made = planned(context, step.args());
      ASSERT_EQ(groups_of(made).groups.size(), 1u);
      EXPECT_EQ(groups_of(made).groups[0].split_end, 1);
      ASSERT_NO_FATAL_FAILURE(run_and_compare(step, context, made));
    }
  }
}

// Cut anew though no row block ends in another split: a row before the last one no longer sees all that it
// shared.
TEST_P(SharedKeysOfPages, AnUpdateThatHidesASharedKeyFromTheFirstRow) {
  StepShape s;
  s.sequences = {{4, 1100}, {4, 1100, 0, 1024}};
  const ServerStep before(s);
  for (const Context& context : contexts) {
    Plan made = planned(context, before.args());
    EXPECT_EQ(groups_of(made).groups[0].split_end, 2);
    const std::vector<std::int32_t> lengths{1100, 1026};
    ASSERT_TRUE(made.update(lengths).ok());
    EXPECT_EQ(groups_of(made).groups[0].split_end, 1);
    AttentionArgs args = before.args();
    args.seqused_k = lengths.data();
    before.poison_outputs();
    const Status ran = made.run(args);
    ASSERT_TRUE(ran.ok()) << ran.message();
    const Outcome shared = before.packed_outcome(1);
    Plan fresh = planned(context, args);
    before.poison_outputs();
    ASSERT_TRUE(fresh.run(args).ok());
    ASSERT_TRUE(same_bits(shared, before.packed_outcome(1)));
  }
}

TEST_P(SharedKeysOfPages, NothingIsSharedWhereScoresDependOnMoreThanTheKey) {
  for (int kind = 0; kind < 6; ++kind) {
    StepShape s = decodes(3, 1024, 100);
    s.window_left = kind == 0 ? 800 : kind == 5 ? 5000 : -1;
    s.bias = kind == 1, s.mask = kind == 2, s.alibi = kind == 3;
    if (kind == 4) {
      for (StepSequence& one : s.sequences) one.q_len = 60, one.kv_len += 60;
    }
    SCOPED_TRACE(::testing::Message() << s);
    const ServerStep step(s);
    Plan made = planned(contexts[1], step.args());
    EXPECT_TRUE(groups_of(made).groups.empty());
    EXPECT_EQ(made.explain().find("shared prefixes"), std::string::npos);
    ASSERT_NO_FATAL_FAILURE(run_and_compare(step, contexts[1], made));
  }
}

TEST_P(SharedKeysOfPages, ForcedPipelines) {
  for (const Pipeline pipeline : kPipelines) {
    const StepShape s = decodes(9, 1024, 100);
    const ServerStep step(s);
    AttentionArgs args = step.args();
    args.pipeline = pipeline;
    Plan made = planned(contexts[1], args);
    EXPECT_EQ(groups_of(made).groups.empty(),
              pipeline != Pipeline::automatic && pipeline != Pipeline::decode);
    step.poison_outputs();
    ASSERT_TRUE(made.run(args).ok());
    ASSERT_NO_FATAL_FAILURE(expect_rows_of_sequences_alone(step, contexts[1]));
  }
}

// Sequences give way to others: the plan is updated with the new table.
TEST_P(SharedKeysOfPages, AnUpdateFindsTheGroupsOfANewTable) {
  StepShape apart = decodes(5, 1024, 100), together = apart;
  for (StepSequence& one : apart.sequences) one.parent = -1, one.shared_keys = 0;
  apart.sequences[4].parent = 3, apart.sequences[4].shared_keys = 600;
  ServerStep of_two(apart), of_all(together);
  const std::int64_t stride = 80;
  const auto table_of = [&](ServerStep& step) {
    std::vector<std::int32_t> table;
    for (std::size_t b = 0; b < step.sequences(); ++b)
      for (std::int64_t i = 0; i < stride; ++i)
        table.push_back(i < step.args().max_pages ? step.table(b, i) : -1);
    return table;
  };
  const std::vector<std::int32_t> tables[] = {table_of(of_two), table_of(of_all)};
  for (const Context& context : contexts) {
    AttentionArgs args = of_two.args();
    args.block_table = tables[0].data(), args.block_table_stride = stride;
    Plan made = planned(context, args);
    ASSERT_EQ(groups_of(made).groups.size(), 1u);
    EXPECT_EQ(groups_of(made).groups[0].last - groups_of(made).groups[0].first, 2);
    ASSERT_TRUE(made.update(of_all.lengths(), tables[1].data()).ok());
    ASSERT_EQ(groups_of(made).groups.size(), 1u);
    EXPECT_EQ(groups_of(made).groups[0].last - groups_of(made).groups[0].first, 5);
    // Without a table the groups stay.
    ASSERT_TRUE(made.update(of_all.lengths()).ok());
    EXPECT_EQ(groups_of(made).groups.size(), 1u);
    ASSERT_TRUE(made.update(of_two.lengths(), tables[0].data()).ok());
    of_two.poison_outputs();
    const Status ran = made.run(args);
    ASSERT_TRUE(ran.ok()) << ran.message();
    ASSERT_NO_FATAL_FAILURE(expect_rows_of_sequences_alone(of_two, context));
  }
}

// A run counts the tasks of each sequence's rows, and where all share pages, there are many more to count
// than before.
TEST_P(SharedKeysOfPages, AnUpdateThatNeedsMoreCountersOfTasks) {
  StepShape s = decodes(300, 512, 20);
  s.kv_heads = s.q_heads = 8;
  s.head_dim = s.v_head_dim = 1;
  const ServerStep step(s);
  std::vector<std::int32_t> lengths(300, 20);
  lengths[298] = lengths[299] = 532;
  AttentionArgs args = step.args();
  args.seqused_k = lengths.data();
  Plan made = planned(contexts[1], args);
  ASSERT_TRUE(made.run(args).ok());
  const std::size_t before = impl_of(made)->partition.merges.size();
  lengths.assign(300, 532);
  ASSERT_TRUE(made.update(lengths, args.block_table).ok());
  ASSERT_GT(impl_of(made)->partition.merges.size(), 50 * before);
  const auto bits = [&] {
    std::vector<float> all;
    for (std::size_t b = 0; b < step.sequences(); ++b) {
      const Outcome rows = step.packed_outcome(b);
      all.insert(all.end(), rows.out.begin(), rows.out.end());
    }
    return all;
  };
  ASSERT_TRUE(attention_forward(contexts[1], args).ok());
  const std::vector<float> want = bits();
  for (int repeat = 0; repeat < 3; ++repeat) {
    step.poison_outputs();
    ASSERT_TRUE(made.run(args).ok());
    ASSERT_EQ(bits(), want);
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, SharedKeysOfPages, ::testing::ValuesIn(swept_isas()), StringName());

TEST(SharedKeysErrors, ARunWhoseSequencesShareNoPagesIsRefused) {
  const Context context = context_of("reference", "serial");
  ServerStep step(decodes(3, 1024, 100));
  const Plan made = planned(context, step.args());
  step.poison_outputs();
  const std::int32_t other = step.table(1, 70), right = step.table(0, 40);
  step.table(1, 40) = other;
  const Status ran = made.run(step.args());
  EXPECT_EQ(ran.code(), Code::invalid_argument);
  EXPECT_EQ(ran.message(),
            "block_table[1, 40] is " + std::to_string(other) + "; expected " + std::to_string(right) +
                " as in sequence 0, with which it shared its first 1024 keys in the table that "
                "plan() or update() was given");
  EXPECT_TRUE(step.outputs_untouched());
  EXPECT_TRUE(attention_forward(context, step.args()).ok());
}

TEST(SharedKeysErrors, ACallWithoutHeadsSharesNothing) {
  const Context context = context_of("reference", "serial");
  ServerStep step(decodes(3, 1024, 100));
  AttentionArgs args = step.args();
  args.q.shape[1] = args.k.shape[1] = args.v.shape[1] = args.out.shape[1] = 0;
  Plan made = planned(context, args);
  EXPECT_TRUE(groups_of(made).groups.empty());
  EXPECT_TRUE(made.update(step.lengths(), args.block_table).ok());
  EXPECT_TRUE(made.run(args).ok());
}

TEST(SharedKeysErrors, TablesOfAnUpdate) {
  const Context context = context_of("reference", "serial");
  ServerStep step(decodes(3, 1024, 100));
  Plan made = planned(context, step.args());
  const auto* odd =
      reinterpret_cast<const std::int32_t*>(reinterpret_cast<const std::byte*>(&step.table(0, 0)) + 2);
  const Status misaligned = made.update(step.lengths(), odd);
  EXPECT_EQ(misaligned.code(), Code::invalid_argument);
  EXPECT_NE(misaligned.message().find("block_table is "), std::string::npos) << misaligned.message();
  AttentionArgs args = step.args();
  args.block_table = odd;
  Plan none;
  EXPECT_NE(plan(context, args, &none).message().find("aligned to 4 bytes"), std::string::npos);
  AttentionArgs alone = step.alone(0);
  alone.seqused_k = step.lengths().data();
  Plan dense = planned(context, alone);
  EXPECT_EQ(dense.update({step.lengths().data(), 1}, &step.table(0, 0)).message(),
            "block_table is given; expected null, as the plan was made without it");
}

}  // namespace
}  // namespace kumiko::test
