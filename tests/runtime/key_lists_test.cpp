// SPDX-License-Identifier: Apache-2.0
// Tree masks and lists of key blocks: the bits of the boolean mask that hides the same keys.
#include <gtest/gtest.h>

#include <limits>

#include "tests/reference/error_promise.h"
#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/runtime/server_step.h"

namespace kumiko::test {
namespace {

struct KeyListsTest : ::testing::TestWithParam<std::string> {
  std::vector<Context> contexts = contexts_of(GetParam());
  Random random{test_seed(61)};

  Case shape() {
    Case c = draw_small_case(random);
    c.sinks = random.one_in(3);
    if (random.one_in(3)) c.softcap = 3.0f;
    if (random.one_in(3)) c.bias = TermLayout::full;
    if (random.one_in(3))
      c.mask = random.pick({TermLayout::keys, TermLayout::transposed, TermLayout::queries});
    if (random.one_in(3)) draw_sequence_visibility(random, &c);
    c.lists = draw_key_lists(random);
    return c;
  }
  Outcome run(const Problem& problem, const AttentionArgs& args, Pipeline pipeline) {
    AttentionArgs with = args;
    with.pipeline = pipeline;
    return problem.run(random.pick(contexts), with);
  }
};

/// The call with one boolean mask, in `memory`, instead of mask and lists.
AttentionArgs by_mask(const Case& c, const AttentionArgs& args, TermTensor* memory) {
  *memory =
      TermTensor({c.batch, c.q_heads, c.q_len, c.kv_len}, TermLayout::full, DataType::boolean, Flush::back);
  memory->fill([&](std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) {
    return sees(args, b, h, i, j) ? 1.0f : 0.0f;
  });
  AttentionArgs masked = args;
  masked.mask = memory->view();
  masked.tree_mask = nullptr, masked.tree_mask_stride = 0;
  masked.bsr_indptr = masked.bsr_indices = nullptr;
  masked.bsr_rows = masked.bsr_keys = masked.bsr_head_stride = 0;
  return masked;
}

TEST_P(KeyListsTest, HaveTheBitsOfAMask) {
  for (int repeat = 0; repeat < thinned(80, 12, 6); ++repeat) {
    const Case c = shape();
    SCOPED_TRACE(::testing::Message() << c);
    const Problem problem(c);
    TermTensor memory;
    const Outcome want = run(problem, by_mask(c, problem.args(), &memory), Pipeline::automatic);
    for (const Pipeline pipeline : kPipelines)
      ASSERT_TRUE(same_bits(run(problem, problem.args(), pipeline), want)) << static_cast<int>(pipeline);
  }
}

TEST_P(KeyListsTest, NonFiniteValuesReachTheRowsThatSeeThem) {
  for (int repeat = 0; repeat < thinned(60, 10, 5); ++repeat) {
    Case c = shape();
    if (c.kv_len == 0) continue;
    SCOPED_TRACE(::testing::Message() << c);
    const Problem problem(c);
    for (int n = 0; n < 4; ++n) {
      const float bad =
          random.pick({std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()});
      (random.one_in(2) ? problem.k : problem.v)
          .at(random.between(0, c.batch - 1), random.between(0, c.kv_heads - 1),
              random.between(0, c.kv_len - 1), 0) = bad;
    }
    TermTensor memory;
    const Outcome want = run(problem, by_mask(c, problem.args(), &memory), Pipeline::automatic);
    for (const Pipeline pipeline : kPipelines)
      ASSERT_TRUE(same_bits(run(problem, problem.args(), pipeline), want)) << static_cast<int>(pipeline);
  }
}

TEST_P(KeyListsTest, AreWithinTheErrorPromise) {
  for (int repeat = 0; repeat < thinned(30, 6, 3); ++repeat) {
    const Case c = shape();
    SCOPED_TRACE(::testing::Message() << c);
    const Problem problem(c);
    const Outcome got = run(problem, problem.args(), Pipeline::automatic);
    ASSERT_TRUE(meets_error_promise(got.out, got.lse, attention_fp64(problem.args()),
                                    attention_naive_f32(problem.args())));
  }
}

// Ragged and paged, every type: each sequence has the bits of its own dense call.
TEST_P(KeyListsTest, OfAServersStep) {
  for (int repeat = 0; repeat < thinned(40, 8, 3); ++repeat) {
    StepShape s;
    for (std::int64_t b = random.between(1, 6); b > 0; --b) {
      const auto q_len =
          static_cast<std::int32_t>(random.pick({std::int64_t{0}, std::int64_t{1}, random.between(2, 70)}));
      s.sequences.push_back({q_len, static_cast<std::int32_t>(random.between(0, 900))});
    }
    s.type = random.pick({DataType::f32, DataType::bf16, DataType::f16});
    s.page_keys = random.pick<std::int64_t>({0, 1, 7, 16, 128});
    s.page_lists = random.one_in(2);
    s.is_causal = random.one_in(2);
    s.mask = random.one_in(4);
    if (random.one_in(4)) s.window_left = random.between(0, 600);
    s.lists = draw_key_lists(random);
    s.seed = random.bits();
    SCOPED_TRACE(::testing::Message() << s);
    const ServerStep step(s);
    const Context& context = random.pick(contexts);
    step.poison_outputs();
    const Status status = attention_forward(context, step.args());
    ASSERT_TRUE(status.ok()) << status.message();
    ASSERT_NO_FATAL_FAILURE(expect_rows_of_sequences_alone(step, context));
  }
}

// A chain is the tree that causality makes: verified tokens have the bits of decodes, one after the other.
TEST_P(KeyListsTest, AChainHasTheBitsOfCausality) {
  Case c;
  c.q_heads = 4, c.kv_heads = 2, c.q_len = 19, c.kv_len = 700, c.head_dim = 40, c.v_head_dim = 24;
  for (const std::int64_t q_len : {1, 7, 8, 19, 70}) {
    c.q_len = q_len;
    const Problem problem(c);
    const std::int64_t stride = (q_len + 7) / 8;
    std::vector<std::uint8_t> bits(static_cast<std::size_t>(q_len * stride));
    for (std::int64_t i = 0; i < q_len; ++i)
      for (std::int64_t t = 0; t <= i; ++t)
        bits[static_cast<std::size_t>(i * stride + t / 8)] |= static_cast<std::uint8_t>(1 << t % 8);
    AttentionArgs chain = problem.args(), causal = problem.args();
    chain.tree_mask = bits.data();
    causal.is_causal = true;
    const Outcome want = run(problem, causal, Pipeline::automatic);
    for (const Pipeline pipeline : kPipelines)
      ASSERT_TRUE(same_bits(run(problem, chain, pipeline), want))
          << static_cast<int>(pipeline) << " " << q_len;
  }
}

// The tree stays at the end of the keys, whose number changes; each run has its own bits.
TEST_P(KeyListsTest, APlanTakesOtherLengthsAndTrees) {
  for (int repeat = 0; repeat < thinned(10, 4, 2); ++repeat) {
    Case c;
    c.batch = 2, c.q_heads = 4, c.kv_heads = 2, c.q_len = random.between(1, 40), c.kv_len = 1500;
    c.head_dim = 12, c.v_head_dim = 20;
    c.lists = draw_key_lists(random);
    c.lists.tree = true;
    c.seed = random.bits();
    SCOPED_TRACE(::testing::Message() << c);
    const Problem problem(c);
    const Context& context = random.pick(contexts);
    std::vector<std::int32_t> lengths = {300, 20};
    AttentionArgs args = problem.args();
    args.seqused_k = lengths.data();
    Plan made;
    ASSERT_TRUE(plan(context, args, &made).ok());
    std::vector<std::uint8_t> bits(static_cast<std::size_t>(2 * c.q_len * args.tree_mask_stride));
    args.tree_mask = bits.data();
    for (int step = 0; step < 5; ++step) {
      for (std::int32_t& length : lengths) length = static_cast<std::int32_t>(random.between(0, c.kv_len));
      for (std::uint8_t& byte : bits) byte = static_cast<std::uint8_t>(random.bits());
      const Outcome want = run(problem, args, Pipeline::automatic);
      ASSERT_TRUE(made.update(lengths).ok());
      problem.poison_outputs();
      ASSERT_TRUE(made.run(args).ok());
      ASSERT_TRUE(same_bits(problem.outcome(), want));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, KeyListsTest, ::testing::ValuesIn(swept_isas()), StringName());

struct KeyListErrors : ::testing::Test {
  const Context context = context_of("reference", "serial");
  Case c = [] {
    Case of;
    of.batch = 2, of.q_heads = 2, of.q_len = 20, of.kv_len = 50;
    of.lists = {true, 8, 16, true};
    return of;
  }();
  const Problem problem{c};
  AttentionArgs args = problem.args();

  void expect_error(const std::string& begin) const {
    problem.poison_outputs();
    const Status status = attention_forward(context, args);
    EXPECT_EQ(status.code(), Code::invalid_argument);
    EXPECT_EQ(status.message().substr(0, begin.size()), begin) << status.message();
    EXPECT_TRUE(problem.outputs_untouched());
  }
};

TEST_F(KeyListErrors, OfTrees) {
  args.tree_mask_stride = 2;
  expect_error("tree_mask_stride is 2; expected 0, or at least 3 bytes");
  args.tree_mask_stride = -1;
  expect_error("tree_mask_stride is -1; expected 0, or at least 3 bytes");
  args.tree_mask_stride = std::numeric_limits<std::int64_t>::max();
  expect_error("tree_mask_stride is 9223372036854775807; expected a table that fits in the address space");
  args.tree_mask = nullptr, args.tree_mask_stride = 3;
  expect_error("tree_mask_stride is 3; expected 0, as tree_mask is null");
}

TEST_F(KeyListErrors, OfShapesOfLists) {
  args.bsr_rows = 0;
  expect_error("bsr_rows is 0; expected 1..2147483647");
  args.bsr_rows = 8, args.bsr_keys = std::int64_t{1} << 31;
  expect_error("bsr_keys is 2147483648; expected 1..2147483647");
  args.bsr_keys = 16, args.bsr_head_stride = 6;
  expect_error("bsr_head_stride is 6; expected 0, or at least 7, one more than the number of query blocks");
  args.bsr_head_stride = std::numeric_limits<std::int64_t>::max();
  expect_error("bsr_head_stride is 9223372036854775807; expected a table that fits in the address space");
  args = problem.args();
  args.bsr_indices = nullptr;
  expect_error("bsr_indices is null; expected lists of key blocks, as bsr_indptr is given");
  args = problem.args();
  args.bsr_indptr = nullptr;
  expect_error("bsr_indices is given; expected null, as bsr_indptr is null");
  args.bsr_indices = nullptr;
  expect_error("bsr_rows is 8; expected 0, as bsr_indptr is null");
  args.bsr_rows = 0;
  expect_error("bsr_keys is 16; expected 0, as bsr_indptr is null");
  args.bsr_keys = 0, args.bsr_head_stride = 7;
  expect_error("bsr_head_stride is 7; expected 0, as bsr_indptr is null");
}

TEST_F(KeyListErrors, OfWhatListsHold) {
  std::vector<std::int32_t> indptr(14), indices = {0, 1, 3};
  args.bsr_indptr = indptr.data(), args.bsr_indices = indices.data(), args.bsr_head_stride = 7;
  indptr[0] = -1;
  expect_error("bsr_indptr[0, 0] is -1; expected 0 or more");
  indptr[0] = 0, indptr[9] = 2;
  expect_error("bsr_indptr[1, 3] is 0; expected at least bsr_indptr[1, 2], which is 2");
  for (std::size_t i = 9; i < 14; ++i) indptr[i] = 3;
  indices[1] = -1;
  expect_error("bsr_indices[1] is -1; expected 0..3, the blocks of kv_len");
  indices[1] = 4;
  expect_error("bsr_indices[1] is 4; expected 0..3, the blocks of kv_len");
  indices[1] = 0;
  expect_error("bsr_indices[1] is 0; expected more than bsr_indices[0], which is 0");
  indices[1] = 1;
  problem.poison_outputs();
  EXPECT_TRUE(attention_forward(context, args).ok());
}

TEST_F(KeyListErrors, OfMemory) {
  args.bsr_indptr = reinterpret_cast<const std::int32_t*>(reinterpret_cast<const char*>(args.bsr_indptr) + 1);
  expect_error("bsr_indptr is ");
  args = problem.args();
  args.bsr_indices =
      reinterpret_cast<const std::int32_t*>(reinterpret_cast<const char*>(args.bsr_indices) + 2);
  expect_error("bsr_indices is ");
  args = problem.args();
  args.lse = {};
  args.tree_mask = static_cast<const std::uint8_t*>(args.out.data);
  expect_error("out.data is ");
  // Lists of zeros, in the output.
  std::vector<float> zeros(2 * 2 * 20 * 8);
  args = problem.args();
  args.out = Tensor::bhsd(zeros.data(), 2, 2, 20, 8);
  args.bsr_indptr = reinterpret_cast<const std::int32_t*>(zeros.data());
  EXPECT_EQ(attention_forward(context, args).code(), Code::invalid_argument);
  EXPECT_EQ(zeros, std::vector<float>(zeros.size()));
}

TEST_F(KeyListErrors, OfARun) {
  Plan made;
  ASSERT_TRUE(plan(context, args, &made).ok());
  problem.poison_outputs();
  args.bsr_indptr = nullptr;
  EXPECT_EQ(made.run(args).message(), "bsr_indptr is null; expected given, as planned");
  args = problem.args();
  args.tree_mask = nullptr;
  EXPECT_EQ(made.run(args).message(), "tree_mask is null; expected given, as planned");
  EXPECT_TRUE(problem.outputs_untouched());
}

TEST_F(KeyListErrors, ExplainNamesThem) {
  Plan made;
  ASSERT_TRUE(plan(context, args, &made).ok());
  EXPECT_NE(made.explain().find(", tree masks, lists of key blocks of 8 x 16"), std::string::npos)
      << made.explain();
}

}  // namespace
}  // namespace kumiko::test
