// SPDX-License-Identifier: Apache-2.0
// The numbers behind a plan: scratch of a task, tiles under masks and windows, costs and bytes read. No bit
// of a result depends on them, so no other test finds a wrong one.
#include "runtime/tuning.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "kernels/pipelines/walk.h"
#include "runtime/traffic.h"
#include "tests/runtime/contexts.h"

namespace kumiko::test {
namespace {

const kernels::KernelSet& set_of(const std::string& isa) {
  return *kernels::kernel_set(*kernels::parse_isa(isa), {});
}

struct TuningOf : ::testing::TestWithParam<std::string> {
  kernels::KernelSet kernels = set_of(GetParam());
  const CoreTuning core = core_tuning(kernels::Core::zen5, kernels.isa);
};

TEST_P(TuningOf, FewRowsAreDecodedInPlace) {
  for (const std::int64_t rows :
       {std::int64_t{1}, core.decode_rows, core.decode_rows + 1, std::int64_t{1000}}) {
    const Tuning tuning = tune(core, kernels, {}, rows, core.decode_rows, 128, 128, 1 << 20, nullptr);
    EXPECT_STREQ(tuning.pipeline->name, rows <= core.decode_rows ? "decode" : "online") << rows;
  }
}

TEST_P(TuningOf, FewRowsOfFewKeysAreTiles) {
  const auto rows = [&](std::int64_t kv_len, std::int64_t dim) {
    return rows_in_place(core, kernels, kv_len, dim);
  };
  EXPECT_EQ(rows(512, 1), core.decode_rows);
  EXPECT_EQ(rows(511, 576), core.decode_rows);
  EXPECT_EQ(rows(1, 1), 4);
  EXPECT_LT(rows(16, 32), 16);
  EXPECT_EQ(rows(36, 25), std::max<std::int64_t>(4, kernels.lanes / 2));
  EXPECT_LE(rows(64, 32), rows(64, 128));
  EXPECT_LE(rows(64, 32), rows(256, 32));
}

TEST_P(TuningOf, TilesUnderAMaskFillItsBlocksOf64Queries) {
  fit_kernels(core, {true, 0}, &kernels);
  EXPECT_EQ(kernels.strip, 64);
  // The rest of a block must not be a single vector, the slowest tile, if a narrower tile avoids that.
  EXPECT_TRUE(64 % kernels.max_nr != kernels.lanes || kernels.max_nr <= 2 * kernels.lanes) << kernels.max_nr;
}

TEST_P(TuningOf, TilesEndWhereStripsDo) {
  fit_kernels(core, {true, 0}, &kernels);
  std::int64_t tiles = 0;
  for (std::int64_t from = 0, rows = 0; from < 200; from += rows, ++tiles) {
    rows = kernels::rows_of_tile(kernels, from, 200);
    ASSERT_GT(rows, 0);
    EXPECT_LE(from % kernels.strip + rows, kernels.strip) << from;
  }
  EXPECT_EQ(tiles, kernels::Walk::tiles_of(kernels, 200));
}

TEST_P(TuningOf, OnlyNarrowWindowsHaveNarrowTiles) {
  const kernels::KernelSet wide = kernels;
  fit_kernels(core, {false, 1025}, &kernels);
  EXPECT_EQ(kernels.max_nr, wide.max_nr);
  fit_kernels(core, {false, 1024}, &kernels);
  const bool is_avx512 = kernels::base_of(kernels.isa) == kernels::Isa::avx512;
  EXPECT_EQ(kernels.max_nr, is_avx512 ? 2 * wide.lanes : wide.max_nr);
}

// Of such a window a row uses perhaps half of what its task packs.
TEST_P(TuningOf, NarrowWindowsHaveTwiceAsManyTilesATask) {
  const auto rows = [&](std::int64_t window) {
    return tune(core, kernels, {false, window}, 100000, core.decode_rows, 128, 128, 1 << 20, nullptr)
        .max_task_rows;
  };
  EXPECT_EQ(rows(1025), core.task_tiles * kernels.max_nr);
  EXPECT_EQ(rows(1024), 2 * rows(1025));
}

// At most seven eighths of the L2, but at least four tiles; one more tile or split would not fit.
TEST_P(TuningOf, ATasksScratchFitsTheL2) {
  for (const std::int64_t l2 : {256 * 1024, 1 << 20, 2 << 20}) {
    for (const char* name : {"two_pass", "three_pass"}) {
      for (const std::int64_t dim : {64, 128}) {
        SCOPED_TRACE(::testing::Message() << name << ", head_dim " << dim << ", L2 of " << l2);
        const Tuning tuning = tune(core, kernels, {}, 100000, core.decode_rows, dim, dim, l2, name);
        kernels::KernelSet staged = kernels;
        const auto bytes = [&](std::int64_t rows, std::int64_t splits) {
          staged.staged_splits = splits;
          return static_cast<std::int64_t>(tuning.pipeline->scratch_bytes(staged, rows, dim, dim));
        };
        EXPECT_EQ(tuning.min_task_rows, kernels.strip);
        const bool is_least = tuning.max_task_rows == 4 * kernels.strip;
        if (!is_least) {
          EXPECT_LE(bytes(tuning.max_task_rows, tuning.staged_splits), l2 * 7 / 8);
        }
        if (tuning.max_task_rows < 16 * kernels.max_nr) {
          EXPECT_GT(bytes(tuning.max_task_rows + kernels.strip, 1), l2 * 7 / 8);
        }
        if (tuning.staged_splits > 1) {
          EXPECT_LE(bytes(tuning.max_task_rows, tuning.staged_splits), l2 * 7 / 8);
        }
      }
    }
  }
  const Tuning few = tune(core, kernels, {}, 16, core.decode_rows, 64, 64, 2 << 20, "three_pass");
  EXPECT_GT(few.staged_splits, 1) << "what 16 rows leave of the L2 goes to a longer super-block";
}

// A description of a machine may give a cache any size.
TEST_P(TuningOf, AnL2OfAnySizeIsFilled) {
  for (const std::int64_t l2 : {std::int64_t{1} << 61, std::numeric_limits<std::int64_t>::max()}) {
    const Tuning tuning = tune(core, kernels, {}, 16, core.decode_rows, 64, 64, l2, "three_pass");
    EXPECT_EQ(tuning.staged_splits, 16) << l2;
    EXPECT_EQ(tuning.max_task_rows, core.task_tiles * kernels.max_nr) << l2;
  }
}

// Few rows would pack the block of keys and values often, and the larger it is, the longer that takes.
TEST_P(TuningOf, TilesThatAreStreamedNeedNotFitTheL2) {
  for (const std::int64_t l2 : {256 * 1024, 512 * 1024, 2 << 20}) {
    for (const char* name : {"online", "interleaved"}) {
      for (const std::int64_t dim : {64, 128, 256, 576}) {
        EXPECT_EQ(tune(core, kernels, {}, 100000, core.decode_rows, dim, dim, l2, name).max_task_rows,
                  core.task_tiles * kernels.max_nr)
            << name << ", head_dim " << dim << ", L2 of " << l2;
      }
    }
  }
}

// What is copied together of pages is read once: it takes no rows from a task.
TEST_P(TuningOf, PagesTakeNoRowsFromATask) {
  for (const std::int64_t l2 : {256 * 1024, 512 * 1024, 1 << 20}) {
    for (const std::int64_t dim : {16, 32, 64}) {
      const std::int64_t dense =
          tune(core, kernels, {}, 100000, core.decode_rows, dim, dim, l2, "two_pass").max_task_rows;
      for (const std::int64_t page_keys : {16, 128, 256}) {
        kernels::KernelSet paged = kernels;
        paged.page_keys = page_keys;
        EXPECT_EQ(tune(core, paged, {}, 100000, core.decode_rows, dim, dim, l2, "two_pass").max_task_rows,
                  dense)
            << "head_dim " << dim << ", pages of " << page_keys << ", L2 of " << l2;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, TuningOf, ::testing::ValuesIn(host_isas()), StringName());

// A plan for `args`, whose tasks and costs are checked.
Plan planned(const char* topology, const AttentionArgs& args, int threads = 0) {
  ContextOptions options;
  options.topology = topology;
  options.executor = "serial";
  options.num_threads = threads;
  Plan made;
  const Status status = plan(context_of(options), args, &made);
  EXPECT_TRUE(status.ok()) << status.message();
  return made;
}
AttentionArgs attention(std::int64_t heads, std::int64_t q_len, std::int64_t kv_len, std::int64_t head_dim,
                        std::int64_t v_head_dim) {
  AttentionArgs args;
  args.q = ConstTensor::bhsd(nullptr, 1, heads, q_len, head_dim);
  args.k = ConstTensor::bhsd(nullptr, 1, heads, kv_len, head_dim);
  args.v = ConstTensor::bhsd(nullptr, 1, heads, kv_len, v_head_dim);
  args.out = Tensor::bhsd(nullptr, 1, heads, q_len, v_head_dim);
  return args;
}

TEST(TaskCosts, CountThePairsThatAreSeen) {
  for (const std::int64_t left : {-1, 0, 30, 500}) {
    for (const std::int64_t right : {-1, 0, 7}) {
      for (const std::int64_t kv_len : {40, 333, 900}) {
        AttentionArgs args = attention(1, 333, kv_len, 16, 24);
        args.window_left = left, args.window_right = right;
        args.pipeline = Pipeline::online;
        SCOPED_TRACE(::testing::Message() << "window " << left << ", " << right << ", " << kv_len << " keys");
        const Plan made = planned("core:1 pu:1", args);
        const Plan::Impl& impl = *impl_of(made);
        const kernels::HeadProblem head = impl.problem.keys_seen(0);
        ASSERT_EQ(impl.partition.cost_unit, 1.0);
        for (std::size_t i = 0; i < impl.partition.tasks.size(); ++i) {
          const PlannedTask& task = impl.partition.tasks[i];
          std::int64_t pairs = 0, first = kv_len, last = 0;
          for (std::int64_t row = task.row_begin; row < task.row_end; ++row) {
            const std::int64_t begin = head.begin_of(row), end = head.end_of(row);
            if (begin >= end) continue;
            pairs += end - begin;
            first = std::min(first, begin), last = std::max(last, end);
          }
          EXPECT_EQ(impl.partition.costs[i].cost,
                    impl.tunings.many.pipeline->cost({pairs, task.row_end - task.row_begin,
                                                      std::max(last - first, std::int64_t{0}), 16, 24}))
              << pairs << " pairs";
        }
      }
    }
  }
}

// The costs of one head's pieces are in proportion to their keys and add up to the head's.
TEST(TaskCosts, OfPiecesAreInProportionToTheirKeys) {
  AttentionArgs args = attention(1, 1, 2000, 64, 64);
  args.window_left = 1299;  // keys 700 to 1999: 324 of split 1, 512 of split 2, 464 of split 3
  const Plan made = planned("core:4 pu:1", args);
  const Plan::Impl& impl = *impl_of(made);
  ASSERT_EQ(impl.partition.tasks.size(), 3u);
  const std::int64_t whole = impl.tunings.many.pipeline->cost({1300, 1, 1300, 64, 64});
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(impl.partition.tasks[i].split_begin, static_cast<std::int64_t>(i) + 1);
    EXPECT_EQ(impl.partition.tasks[i].split_end, static_cast<std::int64_t>(i) + 2);
    const double keys = i == 0 ? 324 : i == 1 ? 512 : 464;
    EXPECT_NEAR(static_cast<double>(impl.partition.costs[i].cost), static_cast<double>(whole) * keys / 1300,
                1);
    sum += impl.partition.costs[i].cost;
  }
  EXPECT_EQ(sum, whole);
}

TEST(PlannedTraffic, CountsWhatIsSeenOfKeysAndOfValues) {
  AttentionArgs args = attention(1, 1, 4096, 16, 48);
  EXPECT_EQ(planned_traffic(*impl_of(planned("core:1 pu:1", args))).total_local(), 4096 * (16 + 48) * 4);
  args.window_left = 99;
  EXPECT_EQ(planned_traffic(*impl_of(planned("core:1 pu:1", args))).total_local(), 100 * (16 + 48) * 4);
  args = attention(1, 60, 4096, 16, 48);  // from the top left, row 59 sees the most: 60 keys
  args.is_causal = true;
  args.causal_alignment = CausalAlignment::top_left;
  EXPECT_EQ(planned_traffic(*impl_of(planned("core:1 pu:1", args))).total_local(), 60 * (16 + 48) * 4);
}

// Two cores of the first domain and one of the second: two thirds of a head are read in the first.
TEST(PlannedTraffic, AHeadIsAtHomeWhereMostOfItIsRead) {
  const Plan made = planned("numa:2 core:2 pu:1", attention(1, 1, 12 * 512, 16, 16), 3);
  const Traffic traffic = planned_traffic(*impl_of(made));
  const std::int64_t bytes = 12 * 512 * 32 * 4;
  EXPECT_EQ(traffic.home, std::vector<std::int32_t>{0});
  EXPECT_EQ(traffic.local, (std::vector<std::int64_t>{bytes * 2 / 3, 0}));
  EXPECT_EQ(traffic.remote, (std::vector<std::int64_t>{0, bytes / 3}));
  EXPECT_EQ(traffic.cut_heads, 1);
}

TEST(PlannedTraffic, HeadsWhoseDomainIsNotToldAreAtHomeWhereTheyAreRead) {
  AttentionArgs args = attention(4, 1, 512, 16, 16);
  const std::int32_t domains[] = {-1, 1, -1, -1};
  args.kv_domains = domains;
  const Plan made = planned("numa:2 core:1 pu:1", args);
  const Traffic traffic = planned_traffic(*impl_of(made));
  ASSERT_EQ(traffic.home.size(), 4u);
  for (const std::int32_t home : traffic.home) EXPECT_GE(home, 0);
  EXPECT_EQ(traffic.home[1], 1);
  EXPECT_EQ(traffic.total_local() + traffic.total_remote(), 4 * 512 * 32 * 4);
  EXPECT_EQ(traffic.total_remote(), 0);
}

}  // namespace
}  // namespace kumiko::test
