// SPDX-License-Identifier: Apache-2.0
// Keys in tiles (KeyLayout::tiles_of_16): every row has the bits of its sequence's own dense call, on every
// ISA and pipeline. Who writes tiles: key_pages_test.cpp.
#include "tests/support/key_tiles.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "runtime/plan.h"
#include "tests/runtime/contexts.h"
#include "tests/runtime/server_step.h"
#include "tests/support/bits.h"

namespace kumiko::test {
namespace {

constexpr DataType kTypes[] = {DataType::f32, DataType::bf16, DataType::f16};

void expect_bits(const ServerStep& step, const Context& context, Pipeline pipeline = Pipeline::automatic) {
  AttentionArgs args = step.args();
  ASSERT_EQ(args.key_layout, KeyLayout::tiles_of_16);
  args.pipeline = pipeline;
  step.poison_outputs();
  const Status packed = attention_forward(context, args);
  ASSERT_TRUE(packed.ok()) << packed.message();
  expect_rows_of_sequences_alone(step, context);
}

struct KeysInTiles : testing::TestWithParam<std::string> {
  std::vector<Context> contexts = contexts_of(GetParam());
  Random random{test_seed(211)};

  static StepShape tiles(std::int64_t page_keys, DataType type) {
    StepShape s;
    s.sequences = {{1, 600}, {3, 513}, {70, 300}, {1, static_cast<std::int32_t>(page_keys)}, {1, 1}, {2, 17}};
    s.type = type;
    s.page_keys = page_keys;
    s.key_tiles = true;
    return s;
  }
};

TEST_P(KeysInTiles, EveryPageSizeAndType) {
  for (const std::int64_t page : {16, 32, 48, 64, 128, 208, 256, 512}) {
    for (const DataType type : kTypes) {
      if (!random.one_in(thinned(1, 2, 6))) continue;
      StepShape s = tiles(page, type);
      s.page_lists = (page / 16 + static_cast<int>(type)) % 2 == 1;
      s.tile_gap = page == 48 ? 3 : 0;
      s.seed = static_cast<std::uint64_t>(page);
      SCOPED_TRACE(::testing::Message() << s);
      ASSERT_NO_FATAL_FAILURE(expect_bits(ServerStep(s), random.pick(contexts)));
    }
  }
}

TEST_P(KeysInTiles, EveryDim) {
  for (const std::int64_t dim : {1, 2, 15, 31, 40, 72, 80, 96, 112, 127, 256, 512, 576}) {
    for (const DataType type : kTypes) {
      if (!random.one_in(thinned(1, 2, 6))) continue;
      StepShape s = tiles(random.pick({16, 32, 512}), type);
      s.sequences = {{1, 270}, {20, 50}, {2, 19}};
      s.head_dim = dim, s.v_head_dim = dim == 576 ? 512 : 24;
      s.kv_heads = dim == 576 ? 1 : 2;
      s.seed = static_cast<std::uint64_t>(dim);
      SCOPED_TRACE(::testing::Message() << s);
      ASSERT_NO_FATAL_FAILURE(expect_bits(ServerStep(s), random.pick(contexts)));
    }
  }
}

TEST_P(KeysInTiles, EveryPipelineAndGroup) {
  for (const Pipeline pipeline : kPipelines) {
    for (const DataType type : kTypes) {
      if (!random.one_in(thinned(1, 1, 3))) continue;
      StepShape s = tiles(random.pick({16, 64, 256}), type);
      s.sequences = {{1, 530}, {20, 70}, {5, kEmulated ? 270 : 1100}};
      s.kv_heads = random.between(1, 2), s.q_heads = s.kv_heads * random.pick({1, 3, 4, 8});
      s.seed = random.bits();
      SCOPED_TRACE(::testing::Message() << s << " pipeline " << static_cast<int>(pipeline));
      ASSERT_NO_FATAL_FAILURE(expect_bits(ServerStep(s), random.pick(contexts), pipeline));
    }
  }
}

// First visible keys that are no tile's, gaps between first tokens and windows, hidden keys of every kind.
TEST_P(KeysInTiles, EveryKindOfHiddenKeys) {
  for (int repeat = 0; repeat < thinned(40, 15, 4); ++repeat) {
    StepShape s = tiles(random.pick({16, 32, 48, 128, 512}), kTypes[random.between(0, 2)]);
    s.sequences = {{1, 900}, {3, static_cast<std::int32_t>(random.between(3, 1300))}, {90, 700}, {4, 60}};
    if (kEmulated) s.sequences = {{1, 600}, {20, 290}};
    s.is_causal = !random.one_in(3);
    s.head_dim = random.pick({7, 16, 33, 64});
    if (!random.one_in(4)) s.window_left = random.pick<std::int64_t>({0, 1, 13, 100, 129, 300, 601});
    if (random.one_in(3)) s.window_sink_tokens = random.pick({1, 4, 17, 70, 300});
    if (random.one_in(4)) s.window_right = random.pick({0, 5, 70});
    s.bias = random.one_in(4), s.mask = random.one_in(3), s.alibi = random.one_in(4);
    s.sinks = random.one_in(4), s.prefix_lens = random.one_in(4);
    if (random.one_in(3)) s.lists = draw_key_lists(random);
    s.seed = random.bits();
    SCOPED_TRACE(::testing::Message() << s);
    ASSERT_NO_FATAL_FAILURE(expect_bits(ServerStep(s), random.pick(contexts)));
  }
}

TEST_P(KeysInTiles, PrefixesAreShared) {
  for (const DataType type : kTypes) {
    for (const int count : {3, 20}) {
      if (kEmulated && (count > 3 || type != DataType::bf16)) continue;
      StepShape s = tiles(32, type);
      s.sequences = {{1, 1100}};
      for (int b = 1; b < count; ++b) s.sequences.push_back({1, 1030 + b, 0, 1024});
      s.head_dim = 40;
      const ServerStep step(s);
      Plan made;
      ASSERT_TRUE(plan(contexts[0], step.args(), &made).ok());
      ASSERT_FALSE(impl_of(made)->partition.shared.groups.empty());
      EXPECT_NE(made.explain().find("pages of 32 keys in tiles of 16"), std::string::npos) << made.explain();
      step.poison_outputs();
      ASSERT_TRUE(made.run(step.args()).ok());
      ASSERT_NO_FATAL_FAILURE(expect_rows_of_sequences_alone(step, contexts[0]));
    }
  }
}

// A plan serves pages in either layout, but each run the one that it was made for.
TEST_P(KeysInTiles, APlanKeepsTheLayout) {
  const ServerStep step(tiles(32, DataType::f32));
  Plan made;
  ASSERT_TRUE(plan(contexts[0], step.args(), &made).ok());
  AttentionArgs args = step.args();
  args.key_layout = KeyLayout::rows;
  const Status status = made.run(args);
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_EQ(status.message(), "key_layout is rows (0); expected the planned tiles_of_16 (1)");
}

// Only rows of keys can have values in them: v lies in rows wherever its memory is.
TEST_P(KeysInTiles, ValuesAtTheSameAddressAreRows) {
  StepShape s = tiles(32, DataType::f32);
  s.sequences = {{40, 300}, {20, 64}};
  s.head_dim = s.v_head_dim = 16;
  const ServerStep step(s);
  AttentionArgs args = step.args();
  const auto* const tiles = static_cast<const float*>(args.k.data);
  const std::vector<float> copy(tiles, tiles + args.k.shape[0] * args.k.stride[0]);
  args.v = args.k;
  args.lse = {};
  std::vector<float> outs[2];
  for (std::vector<float>& out : outs) {
    const auto& [batch, heads, positions, dim] = args.out.shape;
    out.resize(static_cast<std::size_t>(batch * heads * positions * dim));
    args.out = Tensor::bhsd(out.data(), batch, heads, positions, dim);
    const Status status = attention_forward(contexts[0], args);
    ASSERT_TRUE(status.ok()) << status.message();
    args.v.data = copy.data();
  }
  EXPECT_EQ(std::memcmp(outs[0].data(), outs[1].data(), outs[0].size() * sizeof(float)), 0);
}

// The panels are those of the product, which need not be the ISA's own choice.
TEST_P(KeysInTiles, PrecisionsHaveTheirOwnPanels) {
  if (GetParam() == "avx512_bf16") {
    const ServerStep step(tiles(32, DataType::bf16));
    std::vector<Outcome> outcomes;
    for (const Context& context : {contexts[0], context_of("avx512", "serial")}) {
      AttentionArgs args = step.args();
      args.precision = Precision::standard;
      step.poison_outputs();
      ASSERT_TRUE(attention_forward(context, args).ok());
      for (std::size_t b = 0; b < 6; ++b) outcomes.push_back(step.packed_outcome(b));
    }
    for (std::size_t b = 0; b < 6; ++b) ASSERT_TRUE(same_bits(outcomes[b], outcomes[b + 6]));
  } else if (GetParam() == "sve512" || GetParam() == "reference") {
    const ServerStep step(tiles(32, DataType::f16));
    AttentionArgs args = step.args();
    args.precision = Precision::half;
    step.poison_outputs();
    const Status status = attention_forward(contexts[0], args);
    EXPECT_EQ(status.code(), Code::unsupported);
    EXPECT_EQ(status.message(),
              "key_layout is tiles_of_16 (1); expected rows (0), as products of f16 take keys only in rows");
    EXPECT_TRUE(step.outputs_untouched());
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, KeysInTiles, ::testing::ValuesIn(swept_isas()), StringName());

struct KeyTilesErrors : testing::Test {
  Context context = context_of("", "serial");

  static StepShape shape() {
    StepShape s;
    s.sequences = {{1, 40}, {2, 33}};
    s.page_keys = 32, s.key_tiles = true, s.head_dim = 7, s.type = DataType::bf16;
    return s;
  }
  /// A call that is refused writes nothing.
  void expect_error(const ServerStep& step, const AttentionArgs& args, const std::string& message) {
    step.poison_outputs();
    const Status status = attention_forward(context, args);
    EXPECT_EQ(status.code(), Code::invalid_argument);
    EXPECT_EQ(status.message(), message);
    EXPECT_TRUE(step.outputs_untouched());
  }
};

TEST_F(KeyTilesErrors, AttentionNamesWhatIsWrong) {
  const ServerStep step(shape());
  AttentionArgs args = step.args();
  const std::string why = ", as key_layout is tiles_of_16 (1)";
  args.key_layout = static_cast<KeyLayout>(2);
  expect_error(step, args, "key_layout is 2; expected rows (0) or tiles_of_16 (1)");
  args = step.args();
  args.block_table = nullptr, args.max_pages = 0, args.block_table_stride = 0;
  args.seqused_k = nullptr, args.cu_seqlens_q = nullptr, args.num_sequences = 0;
  args.k.shape[0] = args.v.shape[0] = 1;
  expect_error(step, args, "key_layout is tiles_of_16 (1); expected rows (0), as block_table is null");
  args = step.args();
  args.k.shape[2] = args.v.shape[2] = 24;
  expect_error(step, args, "k.shape[2] (seq) is 24; expected a multiple of 16" + why);
  args = step.args();
  args.k.stride[2] = 7;
  expect_error(step, args, "k.stride[2] (seq) is 7; expected 8 (head_dim + 1)" + why);
  args = step.args();
  args.k.stride[1] = 32 * 7;
  expect_error(step, args,
               "k.stride[1] (heads) is 224; expected at least 256, the elements of a page's head" + why);
  args = step.args();
  args.k.stride[0] = 255;
  expect_error(step, args,
               "k.stride[0] (batch) is 255; expected at least 256, the elements of a page's head" + why);
  args = step.args();
  args.k.stride[3] = 2;
  expect_error(step, args, "k.stride[3] (head_dim) is 2; expected 1");
}

// The elements beside an odd dim are the tiles' own, though no shape has them.
TEST_F(KeyTilesErrors, OverlapCountsWholeTiles) {
  const ServerStep step(shape());
  AttentionArgs args = step.args();
  const std::int64_t size = args.k.shape[0] * args.k.stride[0] * 2;
  std::vector<std::byte> memory(static_cast<std::size_t>(size) + 4096);
  args.k.data = memory.data();
  args.q.shape[2] = args.out.shape[2] = 3;
  args.out.data = memory.data() + size - 2;  // the last element
  args.out.stride = {3 * 4 * 24, 3 * 24, 24, 1};
  args.lse = {};
  const Status status = attention_forward(context, args);
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_NE(status.message().find("memory apart from k"), std::string::npos) << status.message();
}

}  // namespace
}  // namespace kumiko::test
