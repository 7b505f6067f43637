// SPDX-License-Identifier: Apache-2.0
// int8 queries and keys through attention_forward: the error promise against fp64 on the same values, and the
// same bits however a call is run and on whatever ISA.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "tests/runtime/contexts.h"
#include "tests/runtime/int8_case.h"
#include "tests/runtime/shapes.h"
#include "tests/support/bits.h"
#include "tests/support/host.h"

namespace kumiko::test {
namespace {

struct Int8 : ::testing::TestWithParam<std::string> {
  Context context = context_of(GetParam(), "serial");
  Random random{test_seed(881)};
  WorstError worst;

  void TearDown() override {
    std::printf("worst error: out %.1f roundoffs (naive %.1f), lse %.1f (naive %.1f)\n", worst.out,
                worst.naive_out, worst.lse, worst.naive_lse);
  }

  /// Right, and the same bits in every pipeline.
  void check(Case c) {
    c.row_max = GuardedLse::Layout::padded;
    SCOPED_TRACE(::testing::Message() << GetParam() << ": " << c);
    const Int8Problem problem(c);
    const Outcome first = problem.run(context);
    const auto fp64 = attention_fp64(problem.wide.args());
    const auto naive = attention_naive_f32(problem.wide.args());
    ASSERT_TRUE(meets_error_promise(first.out, first.lse, fp64, naive, &worst, DataType::f32,
                                    GetParam() == "sve512"));
    ASSERT_TRUE(row_max_is_right(first.row_max, fp64, naive));
    for (std::size_t p = 1; p < std::size(kPipelines); ++p) {
      SCOPED_TRACE(::testing::Message() << "pipeline " << p);
      ASSERT_TRUE(same_bits(problem.run(context, kPipelines[p]), first));
    }
  }
  void check_all(const std::vector<Case>& cases, std::size_t step) {
    for (const Case& c : thin(cases, step * thinned<std::size_t>(1, 11, 29), 2'000'000))
      ASSERT_NO_FATAL_FAILURE(check(c));
  }

  static Case shape(std::int64_t q_len, std::int64_t kv_len, std::int64_t dim, std::int64_t v_dim) {
    Case c;
    c.q_len = q_len, c.kv_len = kv_len, c.head_dim = dim, c.v_head_dim = v_dim;
    return c;
  }
};

TEST_P(Int8, LengthPairs) {
  check_all(length_pairs(), 5);
}
TEST_P(Int8, HeadDimPairs) {
  check_all(head_dim_pairs(), 3);
}
TEST_P(Int8, HeadGroups) {
  check_all(head_groups(), 3);
}
TEST_P(Int8, Layouts) {
  check_all(layouts(), 3);
}
TEST_P(Int8, LongSequences) {
  check_all(long_sequences(), 2);
}
TEST_P(Int8, ScoreTerms) {
  check_all(score_terms(), 7);
}

TEST_P(Int8, EveryFeature) {
  for (int repeat = 0; repeat < thinned(40, 6, 6); ++repeat) {
    Case c = draw_small_case(random);
    c.kv_len = std::min<std::int64_t>(c.kv_len, thinned(800, 300, 300));
    for (std::int32_t& used : c.seqused)
      used = static_cast<std::int32_t>(std::min<std::int64_t>(used, c.kv_len));
    if (repeat % 3 == 0) c.softcap = 4.0f;
    if (repeat % 4 == 1) c.bias = TermLayout::heads;
    if (repeat % 5 == 2) c.alibi = 1;
    if (repeat % 2 == 1) c.mask = TermLayout::full, c.mask_block = random.pick<std::int64_t>({1, 20, 64});
    if (repeat % 3 == 1) c.sinks = true;
    if (repeat % 4 == 3) draw_sequence_visibility(random, &c);
    ASSERT_NO_FATAL_FAILURE(check(c));
  }
}

TEST_P(Int8, AnyChunksEqualOnePrefill) {
  for (int repeat = 0; repeat < 3; ++repeat) {
    const std::int64_t tokens = thinned<std::int64_t>(420, 150, 150);
    Case c = shape(tokens, tokens, 7, 5);
    c.q_heads = 2, c.is_causal = true, c.seed = 900 + static_cast<std::uint64_t>(repeat);
    if (repeat == 1) c.window_left = 100;
    if (repeat == 2) c.window_left = 40, c.window_sink_tokens = 20;
    const Int8Problem problem(c);
    const Outcome whole = problem.run(context);
    for (std::int64_t first = 0; first < tokens;) {
      const std::int64_t last = std::min(tokens, first + (random.one_in(2) ? random.between(1, 8) : 90));
      const Pipeline pipeline = random.pick({Pipeline::automatic, Pipeline::online, Pipeline::decode});
      SCOPED_TRACE(::testing::Message() << GetParam() << " " << c << " rows " << first << ".." << last
                                        << " pipeline " << static_cast<int>(pipeline));
      AttentionArgs part = problem.args(pipeline);
      part.q.data = static_cast<const std::int8_t*>(part.q.data) + first * part.q.stride[2];
      part.q_scale.data += first * part.q_scale.stride[2];
      part.q.shape[2] = last - first;
      part.k.shape[2] = part.v.shape[2] = last;
      ASSERT_TRUE(gives_rows(context, part, whole, first, last));
      first = last;
    }
  }
}

TEST_P(Int8, AnyThreadsGiveTheSameBits) {
  for (const std::int64_t q_len : {2, 70}) {
    Case c = shape(q_len, 700, 12, 9);
    c.q_heads = 4, c.kv_heads = 2, c.is_causal = true;
    const Int8Problem problem(c);
    const Outcome want = problem.run(context);
    for (const Context& machine : contexts_of(GetParam())) ASSERT_TRUE(same_bits(problem.run(machine), want));
  }
}

// Pages of a size that tiles and decode copy together, of one that panels do not divide, and of one that
// decode reads in place. Scales lie in pages of their own, beside the keys'; two of three sequences begin
// with the same pages.
TEST_P(Int8, PagesGiveTheSameBits) {
  for (const std::int64_t page : {6, 20, 32}) {
    for (const std::int64_t q_len : {1, 30}) {
      const std::int64_t keys = 900 / page * page, pages = keys / page, shared = 600 / page;
      Case c = shape(q_len, keys, 9, 6);
      c.batch = 3, c.is_causal = true, c.seqused = {900 / 2, static_cast<std::int32_t>(keys), 800};
      const Int8Problem dense(c);
      for (std::int64_t j = 0; j < shared * page; ++j) {
        for (std::int64_t d = 0; d < 9; ++d) dense.k.at(2, 0, j, d) = dense.k.at(1, 0, j, d);
        for (std::int64_t d = 0; d < 6; ++d) dense.wide.v.at(2, 0, j, d) = dense.wide.v.at(1, 0, j, d);
        dense.k.scale_at(2, 0, j) = dense.k.scale_at(1, 0, j);
      }
      const Outcome want = dense.run(context);
      AttentionArgs args = dense.args();
      std::vector<std::int32_t> table;
      for (std::int64_t b = 0; b < 3; ++b)
        for (std::int64_t i = 0; i < pages; ++i)
          table.push_back(static_cast<std::int32_t>((b == 2 && i < shared ? 1 : b) * pages + i));
      for (ConstTensor* t : {&args.k, &args.v}) {
        ASSERT_EQ(t->stride[0], keys * t->stride[2]);
        t->shape[0] = 3 * pages, t->shape[2] = page, t->stride[0] = page * t->stride[2];
      }
      std::vector<float> scales;
      for (std::int64_t b = 0; b < 3; ++b)
        for (std::int64_t j = 0; j < keys; ++j) scales.push_back(dense.k.scale_at(b, 0, j));
      args.k_scale = {scales.data(), {page, 7, 1}};
      args.block_table = table.data(), args.max_pages = pages;
      for (const Pipeline pipeline : {Pipeline::automatic, Pipeline::online}) {
        args.pipeline = pipeline;
        ASSERT_TRUE(same_bits(dense.wide.run(context, args), want))
            << "pages of " << page << ", queries " << q_len;
      }
    }
  }
}

TEST_P(Int8, PackedSequencesGiveTheSameBits) {
  Case c = shape(40, 300, 20, 12);
  c.batch = 2, c.q_heads = 2;
  const Int8Problem problem(c);
  const Outcome want = problem.run(context);
  // Sequences one after the other in the rows of one: the batch of 2 seen as [1, heads, 2 * seq] needs bshd.
  Case packed = c;
  packed.q_layout = packed.k_layout = packed.v_layout = Layout::bshd;
  const Int8Problem by_positions(packed);
  for (std::int64_t h = 0; h < 2; ++h) {
    for (std::int64_t b = 0; b < 2; ++b) {
      for (std::int64_t i = 0; i < 40; ++i) {
        for (std::int64_t d = 0; d < 20; ++d) by_positions.q.at(b, h, i, d) = problem.q.at(b, h, i, d);
        by_positions.q.scale_at(b, h, i) = problem.q.scale_at(b, h, i);
      }
      for (std::int64_t j = 0; j < 300 && h == 0; ++j) {
        for (std::int64_t d = 0; d < 20; ++d) by_positions.k.at(b, 0, j, d) = problem.k.at(b, 0, j, d);
        for (std::int64_t d = 0; d < 12; ++d)
          by_positions.wide.v.at(b, 0, j, d) = problem.wide.v.at(b, 0, j, d);
        by_positions.k.scale_at(b, 0, j) = problem.k.scale_at(b, 0, j);
      }
    }
  }
  AttentionArgs args = by_positions.args();
  std::vector<float> q_scales, k_scales;
  for (std::int64_t b = 0; b < 2; ++b) {
    for (std::int64_t i = 0; i < 40; ++i)
      for (std::int64_t h = 0; h < 2; ++h) q_scales.push_back(problem.q.scale_at(b, h, i));
    for (std::int64_t j = 0; j < 300; ++j) k_scales.push_back(problem.k.scale_at(b, 0, j));
  }
  const std::int32_t q_begin[] = {0, 40, 80}, k_begin[] = {0, 300, 600};
  for (ConstTensor* t : {&args.q, &args.k, &args.v}) t->shape[2] *= 2, t->shape[0] = 1;
  args.q_scale = {q_scales.data(), {0, 1, 2}};
  args.k_scale = {k_scales.data(), {0, 0, 1}};
  args.cu_seqlens_q = q_begin, args.cu_seqlens_k = k_begin, args.num_sequences = 2;
  const GuardedTensor out({1, 2, 80, 12}, Layout::sbhd, Flush::back);
  args.out = out.output(), args.lse = {};
  const Status status = attention_forward(context, args);
  ASSERT_TRUE(status.ok()) << status.message();
  for (std::int64_t h = 0; h < 2; ++h)
    for (std::int64_t i = 0; i < 80; ++i)
      for (std::int64_t d = 0; d < 12; ++d)
        ASSERT_EQ(out.at(0, h, i, d),
                  want.out[static_cast<std::size_t>((((i / 40) * 2 + h) * 40 + i % 40) * 12 + d)]);
}

// The largest sums of products, of either sign, where instructions for bytes may saturate.
TEST_P(Int8, TheLargestProductsAreExact) {
  for (const std::int64_t dim : {1, 64, 575, 576}) {
    const Int8Problem problem(shape(20, 12, dim, 4));
    constexpr std::int8_t kEnds[] = {-128, 127, -127, -128};
    for (std::int64_t j = 0; j < 12; ++j)
      for (std::int64_t d = 0; d < dim; ++d) problem.k.at(0, 0, j, d) = kEnds[j % 4];
    for (std::int64_t i = 0; i < 20; ++i)
      for (std::int64_t d = 0; d < dim; ++d) problem.q.at(0, 0, i, d) = kEnds[i % 3];
    AttentionArgs args = problem.args();
    // Scores of integers times 2^-20: row_max tells them exactly.
    args.q_scale = args.k_scale = {};
    args.scale = 0x1p-20f;
    const GuardedLse row_max(1, 1, 20, GuardedLse::Layout::contiguous, Flush::back);
    args.row_max = row_max.view();
    for (const Pipeline pipeline : {Pipeline::online, Pipeline::decode}) {
      args.pipeline = pipeline;
      const Status status = attention_forward(context, args);
      ASSERT_TRUE(status.ok()) << status.message();
      const auto got = row_max.elements();
      for (std::size_t i = 0; i < 20; ++i) {
        const int q = kEnds[i % 3];
        const double most = static_cast<double>(dim * std::max(q * -128, q * 127)) * 0x1p-20;
        ASSERT_NEAR(got[i], most, most * 0x1p-21) << "head_dim " << dim << " row " << i;
      }
    }
  }
}

TEST_P(Int8, ScalesMayBeSharedOrAbsent) {
  const Int8Problem problem(shape(20, 50, 16, 8));
  for (std::int64_t i = 0; i < 20; ++i) problem.q.scale_at(0, 0, i) = 1.0f;
  for (std::int64_t j = 0; j < 50; ++j) problem.k.scale_at(0, 0, j) = 0.0625f;
  AttentionArgs args = problem.args();
  const Outcome want = problem.wide.run(context, args);
  const float one = 0.0625f;
  args.q_scale = {};
  args.k_scale = {&one, {}};
  for (const Pipeline pipeline : {Pipeline::online, Pipeline::decode}) {
    args.pipeline = pipeline;
    EXPECT_TRUE(same_bits(problem.wide.run(context, args), want));
  }
}

TEST_P(Int8, AScaleThatIsNaNReachesExactlyTheRowsThatSeeIt) {
  Case c = shape(40, 70, 24, 20);
  c.is_causal = true;
  const Int8Problem problem(c);
  const Outcome before = problem.run(context);
  problem.k.scale_at(0, 0, 55) = std::numeric_limits<float>::quiet_NaN();  // Seen from row 25 on.
  problem.q.scale_at(0, 0, 7) = std::numeric_limits<float>::infinity();
  for (const Pipeline pipeline : kPipelines) {
    const Outcome got = problem.run(context, pipeline);
    for (std::size_t i = 0; i < got.out.size(); ++i) {
      const std::size_t row = i / 20;
      if (row >= 25 || row == 7)
        ASSERT_TRUE(std::isnan(got.out[i])) << row;
      else
        ASSERT_EQ(got.out[i], before.out[i]) << row;
    }
  }
}

TEST_P(Int8, ValuesOfSixteenBitsGiveTheBitsOfWidenedOnes) {
  for (const DataType type : {DataType::bf16, DataType::f16}) {
    for (const std::int64_t q_len : {1, 50}) {
      Case c = shape(q_len, 300, 40, 33);
      const Int8Problem problem(c);
      problem.wide.v.round_to(type);
      const Outcome wide = problem.run(context);
      const NarrowTensor v(problem.wide.v, type, Flush::back), out(problem.wide.out, type, Flush::back);
      v.copy(problem.wide.v);
      AttentionArgs args = problem.args();
      args.v = v.input();
      ASSERT_TRUE(same_bits(problem.wide.run(context, args), wide));
      args.out = out.output();
      ASSERT_TRUE(attention_forward(context, args).ok());
      ASSERT_TRUE(are_rounded_once(out.elements(), wide.out, type));
    }
  }
}

// Sums of products are exact, and all that follows is f32 in one order: scores have the same bits everywhere,
// and all else where exponentials do.
TEST_P(Int8, EveryIsaGivesTheBitsOfTheReference) {
  for (const std::int64_t q_len : {3, 60}) {
    Case c = shape(q_len, 600, 50, 20);
    c.q_heads = 2, c.is_causal = true, c.row_max = GuardedLse::Layout::padded;
    const Int8Problem problem(c);
    const Outcome got = problem.run(context), want = problem.run(context_of("reference", "serial"));
    EXPECT_TRUE(same_bits(got.row_max, want.row_max));
    if (GetParam() != "sve512") {
      EXPECT_TRUE(same_bits(got, want));
    }
  }
}

TEST_P(Int8, AutomaticIsInt8AndExplainNamesTheProducts) {
  const Int8Problem problem(shape(20, 90, 16, 20));
  const Outcome want = problem.run(context);
  AttentionArgs args = problem.args();
  args.precision = Precision::automatic;
  EXPECT_TRUE(same_bits(problem.wide.run(context, args), want));
  Plan plan;
  ASSERT_TRUE(kumiko::plan(context, args, &plan).ok());
  EXPECT_NE(plan.explain().find("elements i8 and f32, products of i8 (int8_scores_"), std::string::npos)
      << plan.explain();
  problem.wide.poison_outputs();
  ASSERT_TRUE(plan.run(args).ok());
  EXPECT_TRUE(same_bits(problem.wide.outcome(), want));
}

TEST_P(Int8, WhatIsNotThereIsUnsupported) {
  const Int8Problem problem(shape(20, 90, 16, 20));
  const auto expect = [&](const AttentionArgs& args, Code code, const char* message) {
    problem.wide.poison_outputs();
    const Status status = attention_forward(context, args);
    EXPECT_EQ(status.code(), code);
    EXPECT_NE(status.message().find(message), std::string::npos) << status.message();
    EXPECT_TRUE(problem.wide.outputs_untouched());
  };
  for (const Precision precision : {Precision::standard, Precision::half}) {
    AttentionArgs args = problem.args();
    args.precision = precision;
    expect(args, Code::unsupported, "expected int8 or automatic, as q and k are i8");
  }
  AttentionArgs floats = problem.wide.args();
  floats.precision = Precision::int8;
  expect(floats, Code::unsupported, "expected another precision, as q and k are f32");
  floats = problem.wide.args();
  floats.k_scale = problem.k.scale();
  expect(floats, Code::invalid_argument, "k_scale.data is given; expected null, as q and k are not i8");
  AttentionArgs args = problem.args();
  args.q = problem.wide.q.input();
  expect(args, Code::invalid_argument, "k.dtype is i8; expected f32, as in q");
  args = problem.args();
  args.v.dtype = DataType::i8;
  expect(args, Code::invalid_argument, "v.dtype is i8; expected f32, bf16 or f16");
  args = problem.args();
  args.out.dtype = DataType::f16;
  expect(args, Code::invalid_argument, "out.dtype is f16; expected f32, as in v, or f32");
  args = problem.args();
  args.q_scale.stride[1] = -1;
  expect(args, Code::invalid_argument, "q_scale.stride[1] (heads) is -1; expected 0 or more");
  args = problem.args();
  args.k_scale.stride[2] = std::numeric_limits<std::int64_t>::max() / 2;
  expect(args, Code::invalid_argument, "k_scale.stride is an extent beyond 2^63 bytes");
  args = problem.args();
  args.k_scale = {static_cast<const float*>(args.out.data), {0, 0, 1}};
  expect(args, Code::invalid_argument, "memory apart from k_scale");
  FusedGemmArgs gemm;
  gemm.q = problem.q.input(), gemm.k = problem.k.input(), gemm.v = problem.wide.v.input();
  gemm.out = problem.wide.out.output();
  const Status status = fused_gemm(context, gemm);
  EXPECT_EQ(status.code(), Code::unsupported);
  EXPECT_EQ(status.message(), "q.dtype is i8; expected f32, bf16 or f16, as fused_gemm takes no i8");
}

TEST_P(Int8, KeysInTilesAreUnsupported) {
  const Int8Problem problem(shape(4, 32, 16, 20));
  const std::int32_t table[] = {0}, used[] = {32};
  AttentionArgs args = problem.args();
  args.block_table = table, args.max_pages = 1, args.seqused_k = used;
  args.key_layout = KeyLayout::tiles_of_16;
  problem.wide.poison_outputs();
  const Status status = attention_forward(context, args);
  EXPECT_EQ(status.code(), Code::unsupported);
  EXPECT_EQ(status.message(),
            "key_layout is tiles_of_16 (1); expected rows (0), as k is i8, for which there are no tiles");
  EXPECT_TRUE(problem.wide.outputs_untouched());
}

INSTANTIATE_TEST_SUITE_P(Isa, Int8, ::testing::ValuesIn(swept_isas()), StringName());

}  // namespace
}  // namespace kumiko::test
