// SPDX-License-Identifier: Apache-2.0
// Gradients of bias and ALiBi slopes in every way of sharing them, and a delta that the caller gives.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/runtime/backward_case.h"
#include "tests/runtime/bias_gradient.h"
#include "tests/runtime/contexts.h"
#include "tests/support/bits.h"
#include "tests/support/numbers.h"

namespace kumiko::test {
namespace {

/// What the sums over pairs that have an element in common must be.
template <class T>
struct Sums {
  std::vector<T> values;
  std::vector<GradientFacts> facts;
};
/// `weight` of (b, i, j) is what a pair's gradient is multiplied by.
template <class T, class Weight>
Sums<T> sums_of(const GradientResult<T>& r, const Shape& shape, const Shape& own, Weight weight) {
  const auto at = [](std::int64_t n) { return static_cast<std::size_t>(n); };
  Sums<T> sums;
  sums.values.resize(at(own[0] * own[1] * own[2] * own[3]));
  sums.facts.resize(sums.values.size());
  const auto clamped = [&](int d, std::int64_t n) { return std::min(n, own[at(d)] - 1); };
  std::int64_t pair = 0;
  for (std::int64_t b = 0; b < shape[0]; ++b)
    for (std::int64_t h = 0; h < shape[1]; ++h)
      for (std::int64_t i = 0; i < shape[2]; ++i)
        for (std::int64_t j = 0; j < shape[3]; ++j, ++pair) {
          const std::size_t n = at(
              ((clamped(0, b) * own[1] + clamped(1, h)) * own[2] + clamped(2, i)) * own[3] + clamped(3, j));
          const double w = weight(b, i, j), size = r.dscore_sizes[at(pair)] * w;
          sums.values[n] += r.dscores[at(pair)] * static_cast<T>(w);
          GradientFacts& facts = sums.facts[n];
          facts.pairs += size != 0;
          facts.max_score = std::max(facts.max_score, r.max_scores[at(pair)]);
          facts.squares += size * size;
          facts.largest = 1;
        }
  return sums;
}
constexpr auto kOne = [](std::int64_t, std::int64_t, std::int64_t) { return 1.0; };

Shape scores_of(const AttentionArgs& a) {
  return {a.q.shape[0], a.q.shape[1], a.q.shape[2], a.k.shape[2]};
}

/// Weight of a slope in a pair's score.
auto distances_of(const AttentionArgs& a) {
  return [&a](std::int64_t b, std::int64_t i, std::int64_t j) {
    const std::int64_t used = a.seqused_k ? a.seqused_k[b] : a.k.shape[2],
                       p = a.causal_alignment == CausalAlignment::bottom_right ? i + used - a.q.shape[2] : i;
    return -static_cast<double>(std::abs(p - j));
  };
}

BackwardCase draw_case(Random& random) {
  BackwardCase c;
  Case& f = c.forward;
  f.batch = random.between(1, 3);
  f.kv_heads = random.between(1, 2), f.q_heads = f.kv_heads * random.between(1, 2);
  const auto length = [&] { return random.pick({random.between(1, 20), random.between(180, 230)}); };
  f.q_len = length(), f.kv_len = length();
  if (random.one_in(6)) f.kv_len = random.between(380, 420), f.batch = 1;
  f.head_dim = random.between(1, 20), f.v_head_dim = random.between(1, 20);
  f.seed = random.bits();
  f = masked(f, static_cast<int>(random.between(0, kMaskKinds - 1)));
  if (random.one_in(2)) f.softcap = 2.0f;
  f.bias = random.pick({TermLayout::full, TermLayout::heads, TermLayout::keys, TermLayout::one});
  f.bias_type = random.pick({DataType::f32, DataType::bf16});
  if (random.one_in(2)) f.mask = TermLayout::full, f.mask_block = random.pick<std::int64_t>({1, 64});
  f.alibi = static_cast<int>(random.between(1, 2));
  f.sinks = random.one_in(3), f.lse_with_sink = random.one_in(2);
  if (random.one_in(3)) f.lse_base = LseBase::two;
  if (random.one_in(2)) c.dlse = GuardedLse::Layout::padded;
  return c;
}

// And the other gradients have the bits that they have alone.
TEST(BackwardTermsSweep, MeetsTheErrorPromise) {
  const std::uint64_t seed = test_seed(2027);
  Random random(seed);
  for (int n = 0; n < thinned(60, 8, 3); ++n) {
    const BackwardCase c = draw_case(random);
    const Sharing sharing = draw_sharing(random);
    SCOPED_TRACE(::testing::Message() << "seed " << seed << " case " << n << ": " << c << ", " << sharing);
    const BackwardProblem problem(c, context_of(default_isa(), "serial"));
    const GradientAnswer answer = problem.answer();
    BackwardArgs args = problem.args();
    const Shape scores = scores_of(args.forward),
                slopes{c.forward.alibi == 2 ? c.forward.batch : 1, c.forward.q_heads, 1, 1};
    const BiasGradient dbias(scores, sharing, random.one_in(2) ? Flush::front : Flush::back);
    std::vector<float> dslopes(static_cast<std::size_t>(slopes[0] * slopes[1]));
    args.dbias = dbias.view(), args.dalibi_slopes = dslopes.data();
    const auto distances = distances_of(args.forward);
    const Sums<double> bias64 = sums_of(answer.fp64, scores, dbias.own(), kOne),
                       slopes64 = sums_of(answer.fp64, scores, slopes, distances);
    const Sums<float> bias32 = sums_of(answer.naive, scores, dbias.own(), kOne),
                      slopes32 = sums_of(answer.naive, scores, slopes, distances);
    for (const std::string& isa : swept_isas()) {
      const Context context = context_of(isa, "openmp");
      problem.forward.run(context);
      const Gradients alone = problem.run(context);
      dbias.poison();
      ASSERT_TRUE(attention_backward(context, args).ok());
      ASSERT_TRUE(gradient_is_right(dslopes, slopes64.values, slopes32.values, slopes64.facts)) << isa;
      const std::vector<float> got = dbias.elements();
      if (sharing.type == DataType::f32) {
        ASSERT_TRUE(gradient_is_right(got, bias64.values, bias32.values, bias64.facts)) << isa;
      } else {  // the f32 sums, rounded once
        BackwardArgs wide = args;
        Sharing as_f32 = sharing;
        as_f32.type = DataType::f32;
        const BiasGradient dbias32(scores, as_f32, Flush::back);
        wide.dbias = dbias32.view();
        ASSERT_TRUE(attention_backward(context, wide).ok());
        const std::vector<float> exact = dbias32.elements();
        ASSERT_TRUE(gradient_is_right(exact, bias64.values, bias32.values, bias64.facts)) << isa;
        ASSERT_TRUE(are_rounded_once(got, exact, sharing.type)) << isa;
      }
      ASSERT_TRUE(same_bits({problem.dq.elements(), problem.dk.elements(), problem.dv.elements(),
                             std::vector<float>(args.dsinks, args.dsinks + alone.dsinks.size())},
                            alone));
    }
    if (HasFailure()) return;
  }
}

struct BackwardTerms : ::testing::TestWithParam<std::string> {
  Context context = context_of(GetParam(), "openmp");

  static BackwardCase shape(std::int64_t q_len, std::int64_t kv_len) {
    BackwardCase c = grouped_case(q_len, kv_len, 5, 3);
    c.forward.bias = TermLayout::full, c.forward.alibi = 1;
    return c;
  }
};

TEST_P(BackwardTerms, AreTheSameOnAnyContext) {
  BackwardCase c = shape(400, 250);
  c.forward.is_causal = true;
  const BackwardProblem problem(c, context);
  BackwardArgs args = problem.args();
  // Some, few: each dimension of its own and shared.
  for (int kind = 0; kind < 16; kind += thinned(1, 15, 15)) {
    Sharing sharing;
    for (int d = 0; d < 4; ++d) sharing.own[d] = (kind >> d & 1) != 0;
    const BiasGradient dbias(scores_of(args.forward), sharing, Flush::back);
    std::vector<float> dslopes(4);
    args.dbias = dbias.view(), args.dalibi_slopes = dslopes.data();
    ASSERT_TRUE(attention_backward(context, args).ok());
    const std::vector<float> want = dbias.elements(), want_slopes = dslopes;
    std::vector<Context> others = contexts_of(GetParam());
    for (const std::string& executor : kAllExecutors) others.push_back(context_of(GetParam(), executor));
    for (const Context& other : others) {
      dbias.poison(), dslopes.assign(4, kNan);
      ASSERT_TRUE(attention_backward(other, args).ok());
      ASSERT_TRUE(same_bits(dbias.elements(), want)) << sharing;
      ASSERT_TRUE(same_bits(dslopes, want_slopes));
    }
  }
}

TEST_P(BackwardTerms, NanReachesExactlyWhatItMust) {
  Random random(7);
  for (int n = 0; n < sweep_size(30); ++n) {
    BackwardCase c = shape(random.between(1, 70), random.between(1, 70));
    c.forward.seed = random.bits();
    c.forward = masked(c.forward, static_cast<int>(random.between(0, kMaskKinds - 1)));
    if (random.one_in(2)) c.forward.mask = TermLayout::full, c.forward.mask_block = 5;
    const BackwardProblem made(c, context);
    const std::string where = made.put(kNan, n, random);
    SCOPED_TRACE(::testing::Message() << c << ": " << where);
    made.forward.run(context);
    BackwardArgs args = made.args();
    const BiasGradient dbias(scores_of(args.forward), {}, Flush::front);
    args.dbias = dbias.view();
    ASSERT_TRUE(attention_backward(context, args).ok());
    const GradientResult<double> fp64 = made.answer().fp64;
    const std::vector<double>& want = fp64.dscores;
    const std::vector<float> got = dbias.elements();
    for (std::size_t i = 0; i < got.size(); ++i) {
      ASSERT_EQ(std::isfinite(got[i]), std::isfinite(want[i])) << i << ": " << got[i] << ", fp64 " << want[i];
      if (fp64.dscore_sizes[i] == 0.0) {  // a pair that does not see each other
        ASSERT_TRUE(got[i] == 0.0f && !std::signbit(got[i])) << i << ": " << got[i];
      }
    }
  }
}

// Rows of packed sequences have the bits of calls of their own, and rows after the last are not written.
TEST_P(BackwardTerms, OfPackedSequencesAreThoseOfEach) {
  BackwardCase c = shape(90, 120);
  c.forward.batch = 1, c.forward.is_causal = true, c.forward.bias = TermLayout::none;
  const BackwardProblem problem(c, context);
  const Packing packing{{0, 30, 30, 85}, {0, 50, 60, 110}};
  const Shape scores{1, 4, 90, 50};
  const std::vector<float> bias(4 * 90 * 50, 0.5f),
      slopes{0.1f, 0.2f, 0.3f, 0.4f, 0.1f, 0.2f, 0.3f, 0.4f, 0.5f, 0.6f, 0.7f, 0.8f};
  BackwardArgs packed = problem.args();
  AttentionArgs& forward = packed.forward;
  packing.pack(&packed);
  forward.bias = {bias.data(), scores, {0, 90 * 50, 50, 1}, DataType::f32};
  forward.alibi_slopes = slopes.data(), forward.alibi_batch_stride = 4;
  ASSERT_TRUE(attention_forward(context, forward).ok());
  const BiasGradient dbias(scores, {}, Flush::back);
  std::vector<float> dslopes(12, kNan);
  packed.dbias = dbias.view(), packed.dalibi_slopes = dslopes.data();
  ASSERT_TRUE(attention_backward(context, packed).ok());
  const std::vector<float> got = dbias.elements();
  const auto at = [&](std::int64_t h, std::int64_t i, std::int64_t j) {
    return got[static_cast<std::size_t>((h * 90 + i) * 50 + j)];
  };
  EXPECT_TRUE(std::isnan(at(0, 85, 0)) && std::isnan(at(3, 89, 49)));
  for (std::size_t s = 0; s < 3; ++s) {
    BackwardArgs one = packing.alone(problem.args(), s);
    const std::int64_t rows = one.dq.shape[2], keys = one.dk.shape[2];
    one.forward.bias = {bias.data(), {1, 4, rows, keys}, {0, 0, 0, 0}, DataType::f32};
    one.forward.alibi_slopes = slopes.data() + 4 * s;
    const BiasGradient own({1, 4, rows, keys}, {}, Flush::back);
    std::vector<float> own_slopes(4, kNan);
    one.dbias = own.view(), one.dalibi_slopes = own_slopes.data();
    ASSERT_TRUE(attention_backward(context, one).ok());
    const std::vector<float> want = own.elements();
    for (std::int64_t h = 0; h < 4; ++h)
      for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t j = 0; j < 50; ++j)
          ASSERT_EQ(at(h, packing.q_begin[s] + i, j),
                    j < keys ? want[static_cast<std::size_t>((h * rows + i) * keys + j)] : 0.0f)
              << s << " " << h << " " << i << " " << j;
    EXPECT_TRUE(same_bits(std::span(dslopes).subspan(4 * s, 4), own_slopes));
  }
  // Without rows of their own, sequences are added.
  const BiasGradient shared(scores, {.own = {true, false, false, true}}, Flush::back);
  packed.dbias = shared.view();
  ASSERT_TRUE(attention_backward(context, packed).ok());
  const std::vector<float> columns = shared.elements();
  for (std::int64_t j = 0; j < 50; ++j) {
    double sum = 0;
    for (std::int64_t h = 0; h < 4; ++h)
      for (std::int64_t i = 0; i < 85; ++i) sum += static_cast<double>(at(h, i, j));
    EXPECT_NEAR(columns[static_cast<std::size_t>(j)], sum, 1e-5);
  }
}

// The gradients of slopes lie as these do, far apart, and nothing between them is written.
TEST_P(BackwardTerms, OfSlopesThatLieFarApart) {
  BackwardCase c = shape(30, 40);
  c.forward.alibi = 2;
  const BackwardProblem problem(c, context);
  BackwardArgs args = problem.args();
  std::vector<float> want(8), slopes(11, kNan), got(11, 7.0f);
  args.dalibi_slopes = want.data();
  ASSERT_TRUE(attention_backward(context, args).ok());
  std::copy_n(args.forward.alibi_slopes, 4, slopes.data());
  std::copy_n(args.forward.alibi_slopes + 4, 4, slopes.data() + 7);
  args.forward.alibi_slopes = slopes.data(), args.forward.alibi_batch_stride = 7;
  args.dalibi_slopes = got.data();
  ASSERT_TRUE(attention_backward(context, args).ok());
  want.insert(want.begin() + 4, 3, 7.0f);
  EXPECT_TRUE(same_bits(got, want));
}

TEST_P(BackwardTerms, OfNothingAreZero) {
  for (const auto& [q_len, kv_len] : {std::pair(9, 0), std::pair(0, 7), std::pair(0, 0)}) {
    const BackwardProblem problem(shape(q_len, kv_len), context);
    BackwardArgs args = problem.args();
    const BiasGradient dbias(scores_of(args.forward), {}, Flush::back);
    std::vector<float> dslopes(4, kNan);
    args.dbias = dbias.view(), args.dalibi_slopes = dslopes.data();
    ASSERT_TRUE(attention_backward(context, args).ok());
    EXPECT_EQ(dslopes, std::vector<float>(4));
  }
  BackwardCase c = shape(5, 40);  // Keys past a sequence's.
  c.forward.seqused = {20, 0};
  const BackwardProblem problem(c, context);
  BackwardArgs args = problem.args();
  const BiasGradient dbias(scores_of(args.forward), {}, Flush::back);
  args.dbias = dbias.view();
  ASSERT_TRUE(attention_backward(context, args).ok());
  const std::vector<float> got = dbias.elements();
  for (std::size_t i = 0; i < got.size(); ++i)
    EXPECT_EQ(got[i] == 0.0f, i % 40 >= 20 || i >= got.size() / 2) << i;
}

// The bits of the call that finds it, and out is not read.
TEST_P(BackwardTerms, DeltaOfTheCallerIsTaken) {
  BackwardCase c = shape(70, 90);
  c.forward.v_head_dim = 21, c.forward.sinks = true, c.forward.is_causal = true;
  for (const GuardedLse::Layout dlse : {GuardedLse::Layout::none, GuardedLse::Layout::padded}) {
    c.dlse = dlse;
    const BackwardProblem problem(c, context);
    const Gradients want = problem.run(context);
    BackwardArgs args = problem.args();
    std::vector<float> delta(2 * 4 * 70 * 2, kNan);
    args.delta = {delta.data(), {4 * 70 * 2, 70 * 2, 2}};
    for (std::int64_t n = 0; n < 2 * 4 * 70; ++n) {
      double chains[8] = {}, sum = 0;  // docs/numerics.md
      for (std::int64_t d = 0; d < 21; ++d)
        chains[d % 8] += static_cast<double>(problem.forward.out.at(n / 280, n / 70 % 4, n % 70, d)) *
                         static_cast<double>(problem.dout.at(n / 280, n / 70 % 4, n % 70, d));
      for (const double chain : chains) sum += chain;
      delta[static_cast<std::size_t>(2 * n)] = static_cast<float>(sum);
    }
    problem.forward.out.fill(kNan);
    std::vector<float> dsinks(4);
    args.dsinks = dsinks.data();
    ASSERT_TRUE(attention_backward(context, args).ok());
    if (dlse == GuardedLse::Layout::none) {
      EXPECT_TRUE(same_bits(problem.dq.elements(), want.dq));
      EXPECT_TRUE(same_bits(problem.dk.elements(), want.dk));
    }
    EXPECT_TRUE(same_bits(problem.dv.elements(), want.dv));
    const std::vector<float> dq = problem.dq.elements();
    for (std::size_t i = 0; i < dq.size(); ++i) ASSERT_NEAR(dq[i], want.dq[i], 1e-5) << i;
    for (std::size_t h = 0; h < 4; ++h) EXPECT_NEAR(dsinks[h], want.dsinks[h], 1e-4) << h;
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, BackwardTerms, ::testing::ValuesIn(swept_isas()), StringName());

TEST(BackwardTermsErrors, NameTheArgument) {
  const Context context = context_of("reference", "serial");
  const BackwardProblem problem(BackwardTerms::shape(5, 6), context);
  const BiasGradient dbias(scores_of(problem.args().forward), {}, Flush::back);
  std::vector<float> dslopes(4), delta(40);
  BackwardArgs right = problem.args();
  right.dbias = dbias.view(), right.dalibi_slopes = dslopes.data(), right.delta.data = delta.data();
  ASSERT_TRUE(attention_backward(context, right).ok());
  BackwardArgs args = right;
  const auto expect = [&](const std::string& message) {
    expect_error(context, problem, args, Code::invalid_argument, message);
    args = right;
  };
  args.dbias.shape[3] = 5;
  expect("dbias.shape[3]");
  args.dbias.stride[2] = 1;
  expect("dbias.stride");
  args.dbias.stride[1] = -1;
  expect("dbias.stride[1]");
  args.dbias.dtype = DataType::boolean;
  expect("dbias.dtype");
  args.dbias.data = nullptr;
  expect("dbias.data is null");
  args.dbias.data = problem.dq.data();
  expect("memory apart from dq");
  args.forward.bias = {};
  expect("dbias is given; expected none, as forward.bias is not given");
  args.forward.alibi_slopes = nullptr;
  expect("dalibi_slopes is given; expected null");
  args.dalibi_slopes = const_cast<float*>(args.forward.alibi_slopes);
  expect("memory apart from forward.alibi_slopes");
  args.delta.stride = {-1, 1, 1};
  expect("delta.stride[0]");
  args.dalibi_slopes = delta.data();
  expect("memory apart from delta");
}

}  // namespace
}  // namespace kumiko::test
