// SPDX-License-Identifier: Apache-2.0
// Products of f16 through attention_forward: the bound against fp64, the same bits however a call is run, and
// what is not finite or too large for f16. Scalar models of f16, and qemu's, take long, so that cases are
// small and pipelines in turn: all of them, over the cases.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "tests/runtime/half_case.h"
#include "tests/support/bits.h"
#include "tests/support/host.h"
#include "tests/support/numbers.h"

namespace kumiko::test {
namespace {

struct Half : ::testing::TestWithParam<std::string> {
  Context context = context_of(GetParam(), "serial");
  Random random{test_seed(411)};
  double worst = 0;

  void TearDown() override { std::printf("worst error: %.2f of the bound\n", worst); }

  /// Right, and the same bits in other pipelines, two of them in turn.
  void check(const HalfProblem& problem, const Case& c) {
    SCOPED_TRACE(::testing::Message() << GetParam() << ": " << c);
    const Outcome first = problem.run(context);
    ASSERT_TRUE(meets_half_bound(first, problem, &worst));
    for (std::size_t p = 1; p < std::size(kPipelines); ++p) {
      if ((p + c.seed) % 3 != 0) continue;
      SCOPED_TRACE(::testing::Message() << "pipeline " << p);
      ASSERT_TRUE(same_bits(problem.run(context, kPipelines[p]), first));
    }
  }
  void check(const Case& c) { check(HalfProblem(c), c); }

  static Case shape(std::int64_t q_len, std::int64_t kv_len, std::int64_t dim, std::int64_t v_dim) {
    Case c;
    c.q_len = q_len, c.kv_len = kv_len, c.head_dim = dim, c.v_head_dim = v_dim;
    return c;
  }
};

TEST_P(Half, RaggedShapes) {
  static constexpr std::int64_t kDims[] = {1, 40, 72, 80, 96, 112, 256, 130};
  std::size_t turn = 0;
  for (const std::int64_t q_len : {1, 63, 64, 65}) {
    for (std::size_t i = 0; i < std::size(kDims); ++i, ++turn) {
      if (turn % thinned<std::size_t>(3, 7, 9) != 0) continue;
      Case c = shape(q_len, thinned<std::int64_t>(150, 70, 70) + q_len, kDims[i],
                     kDims[(i * 3 + 1) % std::size(kDims)]);
      c.q_heads = 2, c.kv_heads = 1 + static_cast<std::int64_t>(turn % 2);
      c.is_causal = turn % 2 == 0, c.seed = 500 + turn;
      ASSERT_NO_FATAL_FAILURE(check(c));
    }
  }
}

// More chains than two pairs of them.
TEST_P(Half, TheLargestDims) {
  for (Case c : {shape(3, 90, 576, 512), shape(65, 70, 512, 576)}) {
    c.q_heads = 2, c.is_causal = true, c.seed = 517;
    ASSERT_NO_FATAL_FAILURE(check(c));
  }
}

// Groups, batches, windows, lengths, masks, biases, slopes, caps, sinks, first tokens, prefixes, trees,
// lists.
TEST_P(Half, EveryFeature) {
  for (int repeat = 0; repeat < thinned(60, 12, 12); ++repeat) {
    Case c = draw_small_case(random);
    c.kv_len = std::min<std::int64_t>(c.kv_len, thinned(600, 300, 300));
    c.q_len = std::min<std::int64_t>(c.q_len, thinned(70, 20, 20));
    for (std::int32_t& used : c.seqused)
      used = static_cast<std::int32_t>(std::min<std::int64_t>(used, c.kv_len));
    if (repeat % 3 == 0) c.softcap = 4.0f;
    if (repeat % 4 == 1) c.bias = TermLayout::heads;
    if (repeat % 5 == 2) c.alibi = 1;
    if (repeat % 2 == 1) c.mask = TermLayout::full, c.mask_block = random.pick<std::int64_t>({1, 20, 64});
    if (repeat % 3 == 1) c.sinks = true;
    if (repeat % 4 == 3) draw_sequence_visibility(random, &c);
    if (repeat % 8 >= 6) c.lists = draw_key_lists(random);
    if (repeat % 4 == 0)
      c.k_layout = Layout::padded_bshd, c.v_layout = Layout::padded, c.out_layout = Layout::bshd;
    ASSERT_NO_FATAL_FAILURE(check(c));
  }
}

// The first block has keys of both, and none of the tree, whose masks hide nothing there: the two runs are
// one chain all the same.
TEST_P(Half, FirstTokensAndAWindowBeforeATree) {
  Case c = shape(6, 270, 12, 9);
  c.window_left = 70, c.window_sink_tokens = 4, c.lists.tree = true;
  const HalfProblem problem(c);
  const Outcome want = problem.run(context, Pipeline::decode);
  EXPECT_TRUE(meets_half_bound(want, problem, &worst));
  for (const Pipeline pipeline : kPipelines)
    EXPECT_TRUE(same_bits(problem.run(context, pipeline), want)) << static_cast<int>(pipeline);
}

// Keys and values that are one row for all: values are read where they lie, a stride of 0 apart.
TEST_P(Half, KeysAndValuesMayBeOneRowForAll) {
  for (const std::int64_t v_dim : {26, 52}) {
    const Case c = shape(9, 100, 12, v_dim);
    const HalfProblem problem(c);
    for (std::int64_t key = 1; key < c.kv_len; ++key) {
      for (std::int64_t d = 0; d < c.head_dim; ++d)
        problem.wide.k.at(0, 0, key, d) = problem.wide.k.at(0, 0, 0, d);
      for (std::int64_t d = 0; d < v_dim; ++d)
        problem.wide.v.at(0, 0, key, d) = problem.wide.v.at(0, 0, 0, d);
    }
    problem.refresh();
    const Outcome want = problem.run(context);
    for (const Pipeline pipeline : kPipelines) {
      AttentionArgs args = problem.args(pipeline);
      args.k.stride[2] = args.v.stride[2] = 0;
      problem.wide.poison_outputs();
      ASSERT_TRUE(attention_forward(context, args).ok());
      EXPECT_TRUE(same_bits(problem.wide.outcome(), want)) << static_cast<int>(pipeline);
    }
  }
}

TEST_P(Half, LongRowsOfAnySize) {
  for (const auto& [keys, q_size, k_size, v_size] :
       {std::tuple{1300, 1.0f, 1.0f, 1.0f}, {600, 0.01f, 30.0f, 100.0f}, {500, 0x1p-12f, 0x1p-12f, 0.01f}}) {
    Case c = shape(3, keys, 24, 20);
    c.q_magnitude = q_size, c.k_magnitude = k_size, c.v_magnitude = v_size, c.seed = 700;
    ASSERT_NO_FATAL_FAILURE(check(c));
  }
}

// A row's chains must not end where those of its neighbours in the tile see nothing, nor where its window or
// its chunk begins.
TEST_P(Half, AnyChunksEqualOnePrefill) {
  for (int repeat = 0; repeat < 4; ++repeat) {
    const std::int64_t tokens = thinned<std::int64_t>(420, 150, 150);
    Case c = shape(tokens, tokens, 7, 5);
    c.q_heads = 2, c.is_causal = true, c.seed = 900 + static_cast<std::uint64_t>(repeat);
    if (repeat == 1) c.window_left = 100;
    if (repeat == 2) c.window_left = 40, c.window_sink_tokens = 20;
    if (repeat == 3) c.mask = TermLayout::positions, c.mask_block = 30;
    const HalfProblem problem(c);
    const Outcome whole = problem.run(context);
    for (std::int64_t first = 0; first < tokens;) {
      const std::int64_t last = std::min(tokens, first + (random.one_in(2) ? random.between(1, 8) : 90));
      const Pipeline pipeline = random.pick({Pipeline::automatic, Pipeline::online, Pipeline::decode});
      SCOPED_TRACE(::testing::Message() << GetParam() << " " << c << " rows " << first << ".." << last
                                        << " pipeline " << static_cast<int>(pipeline));
      AttentionArgs part = problem.args(pipeline);
      part.q.data = static_cast<const std::uint16_t*>(part.q.data) + first * part.q.stride[2];
      part.q.shape[2] = last - first;
      part.k.shape[2] = part.v.shape[2] = last;
      if (part.mask.data) {
        part.mask.data = static_cast<const std::uint8_t*>(part.mask.data) + first * part.mask.stride[2];
        part.mask.shape[2] = last - first, part.mask.shape[3] = last;
      }
      ASSERT_TRUE(gives_rows(context, part, whole, first, last));
      first = last;
    }
  }
}

TEST_P(Half, AnyThreadsGiveTheSameBits) {
  for (const std::int64_t q_len : {2, 70}) {
    Case c = shape(q_len, 700, 12, 9);
    c.q_heads = 4, c.kv_heads = 2, c.is_causal = true;
    const HalfProblem problem(c);
    const Outcome want = problem.run(context);
    for (const Context& machine : contexts_of(GetParam())) ASSERT_TRUE(same_bits(problem.run(machine), want));
  }
}

// Pages of a size that tiles and decode copy together, and of one that decode reads in place; two of three
// sequences begin with the same pages, which decode reads once for both.
TEST_P(Half, PagesAndSharedPrefixesGiveTheSameBits) {
  for (const std::int64_t page : {6, 32}) {
    for (const std::int64_t q_len : {1, 30}) {
      const std::int64_t keys = 900 / page * page, pages = keys / page;
      Case c = shape(q_len, keys, 9, 6);
      c.batch = 3, c.is_causal = true, c.seqused = {900 / 2, static_cast<std::int32_t>(keys), 800};
      HalfProblem dense(c);
      for (std::int64_t j = 0; j < 600 / page * page; ++j) {
        for (std::int64_t d = 0; d < 9; ++d) dense.wide.k.at(2, 0, j, d) = dense.wide.k.at(1, 0, j, d);
        for (std::int64_t d = 0; d < 6; ++d) dense.wide.v.at(2, 0, j, d) = dense.wide.v.at(1, 0, j, d);
      }
      dense.refresh();
      const Outcome want = dense.run(context);
      AttentionArgs args = dense.args();
      std::vector<std::int32_t> table;
      for (std::int64_t b = 0; b < 3; ++b)
        for (std::int64_t i = 0; i < pages; ++i)
          table.push_back(static_cast<std::int32_t>((b == 2 && i < 600 / page ? 1 : b) * pages + i));
      for (ConstTensor* t : {&args.k, &args.v}) {
        ASSERT_EQ(t->stride[0], keys * t->stride[2]);
        t->shape[0] = 3 * pages, t->shape[2] = page, t->stride[0] = page * t->stride[2];
      }
      args.block_table = table.data(), args.max_pages = pages;
      dense.wide.poison_outputs();
      const Status status = attention_forward(context, args);
      ASSERT_TRUE(status.ok()) << status.message();
      ASSERT_TRUE(same_bits(dense.wide.outcome(), want)) << "pages of " << page << ", queries " << q_len;
    }
  }
}

TEST_P(Half, WhatIsNotFiniteReachesExactlyTheRowsThatSeeIt) {
  Case c = shape(40, 70, 24, 20);
  c.is_causal = true;
  for (int which = 0; which < 3; ++which) {
    c.seed = 40 + static_cast<std::uint64_t>(which);
    HalfProblem problem(c);
    if (which == 0) {
      problem.wide.v.at(0, 0, 50, 3) = kInf;
      problem.wide.v.at(0, 0, 60, 12) = std::numeric_limits<float>::quiet_NaN();
      problem.wide.v.at(0, 0, 69, 19) = -kInf;
    } else if (which == 1) {
      problem.wide.k.at(0, 0, 55, 23) = std::numeric_limits<float>::quiet_NaN();
    } else {
      problem.wide.q.at(0, 0, 7, 0) = std::numeric_limits<float>::quiet_NaN();
      for (std::int64_t j = 0; j < 70; ++j) problem.wide.k.at(0, 0, j, 5) = 1.0f;
      problem.wide.q.at(0, 0, 9, 5) = -kInf;  // Every score -inf: the row is 0.
      problem.wide.q.at(0, 0, 11, 5) = kInf;
    }
    problem.refresh();
    ASSERT_NO_FATAL_FAILURE(check(problem, c));
  }
}

// Scores of 1e9 and beyond, and sums of values that f16 could not hold: 128 values of 250 with equal weights,
// and values beyond the limit, which are added one by one. Roundings of equal numbers all go one way: 250
// becomes 251.6.
TEST_P(Half, NothingOverflows) {
  for (const int which : {0, 1, 2, 3}) {
    Case c = shape(5, 300, 40, 12);
    c.seed = 60 + static_cast<std::uint64_t>(which);
    HalfProblem problem(c);
    if (which == 0) problem.wide.q.fill(65504.0f), problem.wide.k.fill(65504.0f);
    if (which == 1) problem.wide.q.fill(0.0f), problem.wide.v.fill(250.0f);
    if (which == 2) problem.wide.q.fill(0.0f), problem.wide.v.fill(-65504.0f);
    if (which == 3) {
      for (std::int64_t j = 0; j < 300; j += 7)
        problem.wide.v.at(0, 0, j, j % 12) = 1000.0f + static_cast<float>(j);
    }
    problem.refresh();
    const Outcome got = problem.run(context);
    const auto fp64 = attention_fp64(problem.wide.args());
    for (std::size_t i = 0; i < got.out.size(); ++i) {
      ASSERT_TRUE(std::isfinite(got.out[i])) << which;
      ASSERT_NEAR(got.out[i], fp64.out[i], 8e-3 * (1 + std::abs(fp64.out[i])))
          << which << " out[" << i << "]";
    }
    for (const Pipeline pipeline : {Pipeline::online, Pipeline::decode, Pipeline::three_pass})
      ASSERT_TRUE(same_bits(problem.run(context, pipeline), got)) << which;
  }
}

// Weights far below the largest count as long as they are not below 2^-20 of a split's.
TEST_P(Half, ALongTailOfSmallWeightsCounts) {
  Case c = shape(2, 512, 1, 1);
  HalfProblem problem(c);
  problem.wide.q.fill(1.0f), problem.wide.k.fill(0.0f), problem.wide.v.fill(1.0f);
  problem.wide.k.at(0, 0, 100, 0) = 10.0f;  // The others' weights are 4.5e-5 of its.
  problem.wide.v.at(0, 0, 100, 0) = 0.0f;
  problem.refresh();
  for (const Pipeline pipeline : kPipelines) {
    const Outcome got = problem.run(context, pipeline);
    ASSERT_NEAR(got.out[0], 511 * 4.54e-5 / (1 + 511 * 4.54e-5), 5e-4);
  }
}

TEST_P(Half, OutputsOfF16AreTheSameRoundedOnce) {
  Case c = shape(20, 90, 16, 20);
  const HalfProblem problem(c);
  const Outcome wide = problem.run(context);
  const NarrowTensor out(problem.wide.out, DataType::f16, Flush::back);
  AttentionArgs args = problem.args();
  args.out = out.output();
  ASSERT_TRUE(attention_forward(context, args).ok());
  ASSERT_TRUE(are_rounded_once(out.elements(), wide.out, DataType::f16));
}

TEST_P(Half, ExplainNamesTheProducts) {
  const HalfProblem problem(shape(20, 90, 16, 20));
  Plan half, standard;
  ASSERT_TRUE(plan(context, problem.args(), &half).ok());
  EXPECT_NE(half.explain().find("elements f16 to f32, products of f16"), std::string::npos) << half.explain();
  AttentionArgs args = problem.args();
  args.precision = Precision::automatic;
  ASSERT_TRUE(plan(context, args, &standard).ok());
  EXPECT_NE(standard.explain().find("products of f32"), std::string::npos) << standard.explain();
}

TEST_P(Half, StandardAndAutomaticAreProductsOfF32) {
  const HalfProblem problem(shape(20, 90, 16, 20));
  const Outcome want = problem.wide.run(context), half = problem.run(context);
  EXPECT_FALSE(same_bits(half, want));
  for (const Precision precision : {Precision::automatic, Precision::standard}) {
    AttentionArgs args = problem.args();
    args.precision = precision;
    problem.wide.poison_outputs();
    ASSERT_TRUE(attention_forward(context, args).ok());
    EXPECT_TRUE(same_bits(problem.wide.outcome(), want)) << static_cast<int>(precision);
  }
}

INSTANTIATE_TEST_SUITE_P(Half, Half, ::testing::ValuesIn(half_isas()), StringName());

}  // namespace
}  // namespace kumiko::test
