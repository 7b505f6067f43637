// SPDX-License-Identifier: Apache-2.0
// attention_backward in products of bf16 pairs: against fp64 over a random sweep, the same bits however it is
// called, special values; and which calls have these products.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "tests/runtime/backward_case.h"
#include "tests/runtime/contexts.h"
#include "tests/support/alloc_counter.h"
#include "tests/support/bits.h"
#include "tests/support/numbers.h"

namespace kumiko::test {
namespace {

bool has_pairs(const std::string& isa) {
  return isa == "avx512_bf16";
}
std::vector<std::string> pair_isas() {
  std::vector<std::string> isas = swept_isas();
  std::erase_if(isas, [](const std::string& isa) { return !has_pairs(isa); });
  return isas;
}

// After a forward call in either precision, against who rounds what that call and this one round.
TEST(BackwardPairsSweep, MeetsTheErrorPromise) {
  const std::uint64_t seed = test_seed(2028);
  Random random(seed);
  for (int n = 0; n < thinned(80, 8, 3) && !pair_isas().empty(); ++n) {
    const BackwardCase c = draw_backward_case(random);
    const bool is_forward_in_pairs = random.one_in(2);
    SCOPED_TRACE(::testing::Message() << "seed " << seed << " case " << n << ": " << c << " forward in "
                                      << (is_forward_in_pairs ? "pairs" : "f32"));
    const Context context = context_of("avx512_bf16", "openmp");
    const Bf16Problem problem(c, context);
    const GradientAnswer answer =
        problem.wide.answer(is_forward_in_pairs ? Rounded::all_weights : Rounded::gradients);
    const Gradients got =
        problem.run(context, is_forward_in_pairs ? Precision::half : Precision::standard, Precision::half);
    ASSERT_TRUE(answer.is_met_by(got));
  }
}

TEST(BackwardPairsSweep, HeadDimsAndGroupsOfModels) {
  constexpr std::int64_t kDims[][2] = {{40, 40},   {80, 72},   {112, 96}, {128, 128},
                                       {256, 255}, {575, 512}, {512, 576}};
  for (std::size_t n = 0; n < std::size(kDims) && !pair_isas().empty(); n += thinned<std::size_t>(1, 3, 6)) {
    BackwardCase c;
    Case& f = c.forward;
    f.head_dim = kDims[n][0], f.v_head_dim = kDims[n][1];
    f.kv_heads = 1 + static_cast<std::int64_t>(n % 2), f.q_heads = f.kv_heads * (n % 3 == 0 ? 8 : 3);
    f.q_len = 21, f.kv_len = 37, f.is_causal = true, f.seed = 700 + n;
    SCOPED_TRACE(::testing::Message() << c);
    const Context context = context_of("avx512_bf16", "openmp");
    const Bf16Problem problem(c, context);
    const GradientAnswer answer = problem.wide.answer(Rounded::gradients);
    ASSERT_TRUE(answer.is_met_by(problem.run(context, Precision::standard, Precision::half)));
  }
}

struct BackwardPairs : ::testing::TestWithParam<std::string> {
  Context context = context_of(GetParam(), "openmp");
};

// Odd numbers of queries, keys and dims, causality that begins at odd ones, several blocks of both.
TEST_P(BackwardPairs, AreTheSameOnAnyContext) {
  BackwardCase c = grouped_case(1201, 601, 5, 3);
  c.forward.batch = 1, c.forward.kv_heads = 1, c.forward.q_heads = 2;
  for (const bool is_causal : {false, true}) {
    c.forward.is_causal = is_causal;
    const Bf16Problem problem(c, context);
    const Gradients want = problem.run(context, Precision::half, Precision::half);
    for (const Context& other : contexts_of(GetParam()))
      EXPECT_TRUE(same_bits(problem.run(other, Precision::half, Precision::half), want));
    for (const std::string& executor : kAllExecutors)
      EXPECT_TRUE(
          same_bits(problem.run(context_of(GetParam(), executor), Precision::half, Precision::half), want))
          << executor;
  }
}

// Pairs are counted from a sequence's first query and key, wherever these lie.
TEST_P(BackwardPairs, OfASequenceAreThoseOfTheBatchAndOfPackedOnes) {
  BackwardCase c = grouped_case(90, 121, 20, 11);
  c.forward.batch = 1, c.forward.is_causal = true;
  const Bf16Problem problem(c, context);
  BackwardArgs packed = problem.args(Precision::half);
  const std::int32_t q_begin[] = {0, 31, 84}, k_begin[] = {0, 51, 110};
  packed.forward.cu_seqlens_q = q_begin, packed.forward.cu_seqlens_k = k_begin;
  packed.forward.num_sequences = 2;
  ASSERT_TRUE(attention_forward(context, packed.forward).ok());
  problem.wide.poison_gradients();
  ASSERT_TRUE(attention_backward(context, packed).ok());
  const auto all = [&] {
    return Gradients{problem.wide.dq.elements(), problem.wide.dk.elements(), problem.wide.dv.elements(), {}};
  };
  const Gradients got = all();
  problem.wide.poison_gradients();
  for (std::size_t s = 0; s < 2; ++s) {
    BackwardArgs one = problem.args(Precision::half);
    const auto cut = [&](const std::int32_t* begin, auto&... views) {
      const auto part = [&](auto& view) {
        const std::int64_t bytes = view.dtype == DataType::f32 ? 4 : 2;
        view.data = const_cast<std::byte*>(static_cast<const std::byte*>(view.data)) +
                    begin[s] * view.stride[2] * bytes;
        view.shape[2] = begin[s + 1] - begin[s];
      };
      (part(views), ...);
    };
    cut(q_begin, one.forward.q, one.forward.out, one.dout, one.dq);
    cut(k_begin, one.forward.k, one.forward.v, one.dk, one.dv);
    one.forward.lse.data += q_begin[s];
    one.forward.lse.stride = {4 * 90, 90, 1};
    ASSERT_TRUE(attention_backward(context, one).ok());
  }
  EXPECT_TRUE(same_bits(got, all()));
}

// NaN and infinities in each input reach what fp64 says, and no hidden pair, its neighbour in a step of the
// products among them.
TEST_P(BackwardPairs, NanReachesExactlyWhatItMust) {
  Random random(test_seed(7));
  for (int n = 0; n < sweep_size(60); ++n) {
    BackwardCase c = grouped_case(random.between(1, 70), random.between(1, 70), 20, 11);
    c.forward.seed = random.bits();
    c.forward = masked(c.forward, static_cast<int>(random.between(0, kMaskKinds - 1)));
    if (random.one_in(2)) c.forward.mask = TermLayout::full, c.forward.mask_block = random.pick({1, 5});
    const Bf16Problem made(c, context);
    const std::string where = made.wide.put(random.pick({kNan, kNan, kInf}), n, random);
    SCOPED_TRACE(::testing::Message() << c << ": " << where);
    made.refresh();
    const Gradients got = made.run(context, Precision::standard, Precision::half);
    const GradientResult<double> want = made.wide.answer().fp64;
    ASSERT_NO_FATAL_FAILURE(expect_finite_where(got, want));
  }
}

// Gradients of bias and slopes are sums of products of f32 in any precision, those of sinks of neither.
TEST_P(BackwardPairs, LeaveTheGradientsOfTermsAlone) {
  BackwardCase c = grouped_case(61, 203, 20, 12);
  c.forward.batch = 1, c.forward.bias = TermLayout::full, c.forward.alibi = 1, c.forward.sinks = true;
  c.forward.softcap = 20.0f;
  const Bf16Problem problem(c, context);
  ASSERT_TRUE(attention_forward(context, problem.args(Precision::standard).forward).ok());
  std::vector<float> dbias[2], dslopes[2], dsinks[2];
  for (const int half : {0, 1}) {
    BackwardArgs args = problem.args(half ? Precision::half : Precision::standard);
    dbias[half].resize(4 * 61 * 203), dslopes[half].resize(4), dsinks[half].resize(4);
    args.dbias = {dbias[half].data(), {1, 4, 61, 203}, {0, 61 * 203, 203, 1}, DataType::f32};
    args.dalibi_slopes = dslopes[half].data(), args.dsinks = dsinks[half].data();
    ASSERT_TRUE(attention_backward(context, args).ok());
  }
  EXPECT_TRUE(same_bits(dbias[1], dbias[0]));
  EXPECT_TRUE(same_bits(dslopes[1], dslopes[0]));
  EXPECT_TRUE(same_bits(dsinks[1], dsinks[0]));
}

TEST_P(BackwardPairs, OfAPlanAreThoseOfTheCallAndAllocateNothing) {
  for (const std::int64_t q_len : {70, 1300}) {
    BackwardCase c = grouped_case(q_len, 133, 5, 3);
    c.forward.is_causal = true;
    const Context one = context_of(GetParam(), "serial");
    const Bf16Problem problem(c, one);
    const Gradients want = problem.run(one, Precision::half, Precision::half);
    const BackwardArgs args = problem.args(Precision::half);
    BackwardPlan plan;
    ASSERT_TRUE(plan_backward(one, args, &plan).ok());
    problem.wide.poison_gradients();
    std::int64_t calls = 0;
    bool ok = true;
    {
      const AllocationCount count;
      ok = plan.run(args).ok();
      calls = count.calls();
    }
    EXPECT_TRUE(ok);
    EXPECT_EQ(calls, 0);
    EXPECT_TRUE(same_bits(
        {problem.wide.dq.elements(), problem.wide.dk.elements(), problem.wide.dv.elements(), {}}, want));
    EXPECT_NE(plan.explain().find(", elements bf16, products of bf16, blocks"), std::string::npos)
        << plan.explain();
    EXPECT_FALSE(plan.run(problem.args(Precision::standard)).ok());
  }
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(BackwardPairs);
// Not named after the ISA: tests/isa_report would then ask for these tests of every other one.
INSTANTIATE_TEST_SUITE_P(Pairs, BackwardPairs, ::testing::ValuesIn(pair_isas()),
                         [](const auto&) { return std::string("products_of_pairs"); });

struct BackwardPrecision : ::testing::TestWithParam<std::string> {
  Context context = context_of(GetParam(), "serial");
  Bf16Problem problem{grouped_case(31, 45, 20, 12), context};

  Gradients run(const Context& on, Precision precision) {
    return problem.run(on, Precision::standard, precision);
  }
};

TEST_P(BackwardPrecision, AutomaticIsHalfForBf16OnAvx512Bf16AloneAndElseStandard) {
  const Gradients standard = run(context, Precision::standard);
  EXPECT_TRUE(same_bits(run(context, Precision::automatic),
                        has_pairs(GetParam()) ? run(context, Precision::half) : standard));
  if (!has_pairs(GetParam())) return;
  EXPECT_FALSE(same_bits(run(context, Precision::half), standard));
  EXPECT_TRUE(same_bits(run(context_of("avx512", "serial"), Precision::automatic), standard));
  // Products of f32 where dout has more bits than its partners.
  run(context, Precision::standard);
  BackwardArgs args = problem.args(Precision::automatic);
  args.dout = problem.wide.args().dout;
  EXPECT_TRUE(same_bits(problem.wide.run(context, args), standard));
}

TEST_P(BackwardPrecision, HalfWithoutKernelsIsAnErrorThatNamesPrecisionTypeAndIsa) {
  BackwardArgs args = problem.args(Precision::half);
  args.dout = problem.wide.args().dout;
  expect_error(context, problem.wide, args, Code::unsupported,
               "forward.precision is \"half\"; expected standard, or q, k, v and dout of bf16 on isa "
               "avx512_bf16; q is "
               "bf16, dout is f32 and isa is " +
                   GetParam());
  args = problem.wide.args();
  args.forward.precision = Precision::half;
  expect_error(context, problem.wide, args, Code::unsupported,
               "q is f32, dout is f32 and isa is " + GetParam());
  BackwardPlan plan;
  EXPECT_EQ(plan_backward(context, args, &plan).code(), Code::unsupported);
  EXPECT_FALSE(plan);
  if (!has_pairs(GetParam()))
    expect_error(context, problem.wide, problem.args(Precision::half), Code::unsupported,
                 "forward.precision");
}

TEST_P(BackwardPrecision, OfTheEnvironmentIsThatOfCallsWithoutTheirOwn) {
  const Gradients standard = run(context, Precision::standard);
  const auto with = [&](const char* precision) {
    setenv("KUMIKO_PRECISION", precision, 1);
    ContextOptions options;
    options.isa = GetParam(), options.num_threads = 1;
    Context made;
    EXPECT_TRUE(Context::create(options, &made).ok());
    unsetenv("KUMIKO_PRECISION");
    return made;
  };
  EXPECT_TRUE(same_bits(run(with("standard"), Precision::automatic), standard));
  run(context, Precision::standard);
  const BackwardArgs args = problem.args(Precision::automatic);
  expect_error(with("int8"), problem.wide, args, Code::unsupported, "KUMIKO_PRECISION is \"int8\"");
  if (has_pairs(GetParam())) {
    EXPECT_TRUE(same_bits(problem.wide.run(with("half"), args), run(context, Precision::half)));
    EXPECT_TRUE(same_bits(run(with("half"), Precision::standard), standard));
  } else {
    expect_error(with("half"), problem.wide, args, Code::unsupported, "KUMIKO_PRECISION is \"half\"");
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, BackwardPrecision, ::testing::ValuesIn(swept_isas()), StringName());

}  // namespace
}  // namespace kumiko::test
