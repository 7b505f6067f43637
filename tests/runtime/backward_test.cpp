// SPDX-License-Identifier: Apache-2.0
// attention_backward against fp64 over a random sweep; the same bits on any context; special values.
#include "kernels/pipelines/backward.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tests/runtime/backward_case.h"
#include "tests/runtime/contexts.h"
#include "tests/support/bits.h"
#include "tests/support/numbers.h"

namespace kumiko::test {
namespace {

struct Backward : ::testing::TestWithParam<std::string> {
  Context context = context_of(GetParam(), "openmp");

  static BackwardCase shape(std::int64_t q_len, std::int64_t kv_len) {
    return grouped_case(q_len, kv_len, 20, 12);
  }
};

// All ISAs on one case, whose answer takes longer than their work.
TEST(BackwardSweep, MeetsTheErrorPromise) {
  const std::uint64_t seed = test_seed(2026);
  Random random(seed);
  for (int n = 0; n < thinned(80, 8, 3); ++n) {
    const BackwardCase c = draw_backward_case(random);
    SCOPED_TRACE(::testing::Message() << "seed " << seed << " case " << n << ": " << c);
    const BackwardProblem problem(c, context_of(default_isa(), "serial"));
    const GradientAnswer answer = problem.answer();
    for (const std::string& isa : swept_isas()) {
      const Context context = context_of(isa, "openmp");
      problem.forward.run(context);
      ASSERT_TRUE(answer.is_met_by(problem.run(context))) << isa;
    }
    if (HasFailure()) return;
  }
}

// Those of models, up to the largest, and groups of many heads.
TEST(BackwardSweep, HeadDimsAndGroupsOfModels) {
  constexpr std::int64_t kDims[][2] = {{40, 40},   {72, 72},   {80, 80},   {96, 96},  {112, 112},
                                       {128, 128}, {256, 256}, {576, 512}, {512, 576}};
  for (std::size_t n = 0; n < std::size(kDims); n += thinned<std::size_t>(1, 4, 8)) {
    BackwardCase c;
    Case& f = c.forward;
    f.head_dim = kDims[n][0], f.v_head_dim = kDims[n][1];
    f.kv_heads = 1 + static_cast<std::int64_t>(n % 2), f.q_heads = f.kv_heads * (n % 3 == 0 ? 8 : 3);
    f.q_len = 21, f.kv_len = 37, f.is_causal = true, f.seed = 600 + n;
    SCOPED_TRACE(::testing::Message() << c);
    const BackwardProblem problem(c, context_of(default_isa(), "serial"));
    const GradientAnswer answer = problem.answer();
    for (const std::string& isa : swept_isas()) {
      const Context context = context_of(isa, "openmp");
      problem.forward.run(context);
      ASSERT_TRUE(answer.is_met_by(problem.run(context))) << isa;
    }
  }
}

// More than one block of queries and of keys, a group, and a row of blocks that not every step has.
TEST_P(Backward, IsTheSameOnAnyContext) {
  BackwardCase c = shape(1200, 600);
  c.forward.batch = 1, c.forward.kv_heads = 1, c.forward.q_heads = 2, c.forward.sinks = true;
  c.forward.head_dim = 5, c.forward.v_head_dim = 3;
  for (const bool is_causal : {false, true}) {
    c.forward.is_causal = is_causal;
    const BackwardProblem problem(c, context);
    const Gradients want = problem.run(context);
    for (const Context& other : contexts_of(GetParam())) EXPECT_TRUE(same_bits(problem.run(other), want));
    for (const std::string& executor : kAllExecutors)
      EXPECT_TRUE(same_bits(problem.run(context_of(GetParam(), executor)), want)) << executor;
  }
}

// A sequence's gradients do not depend on the rest of the batch, nor on where its rows lie.
TEST_P(Backward, OfASequenceIsThatOfTheBatch) {
  BackwardCase c = shape(150, 210);
  c.forward.is_causal = true;
  const BackwardProblem problem(c, context);
  const Gradients all = problem.run(context);
  BackwardArgs one = problem.args();
  const auto second = [](auto& view) {
    view.data = static_cast<decltype(view.data)>(
        const_cast<float*>(static_cast<const float*>(view.data) + view.stride[0]));
    view.shape[0] = 1;
  };
  second(one.forward.q), second(one.forward.k), second(one.forward.v), second(one.forward.out),
      second(one.dout);
  second(one.dq), second(one.dk), second(one.dv);
  one.forward.lse.data += 4 * 150;
  problem.poison_gradients();
  ASSERT_TRUE(attention_backward(context, one).ok());
  const auto half = [](const std::vector<float>& x) { return std::span(x).subspan(x.size() / 2); };
  EXPECT_TRUE(same_bits(half(problem.dq.elements()), half(all.dq)));
  EXPECT_TRUE(same_bits(half(problem.dk.elements()), half(all.dk)));
  EXPECT_TRUE(same_bits(half(problem.dv.elements()), half(all.dv)));
}

TEST_P(Backward, OfWhatSeesNothingIsZero) {
  BackwardCase c = shape(40, 50);
  c.forward.window_left = 3, c.forward.window_right = 2;  // keys before 4 are seen by none of 40 queries
  c.forward.seqused = {50, 0};
  const BackwardProblem problem(c, context);
  const Gradients got = problem.run(context);
  for (std::size_t i = 0; i < got.dq.size(); ++i) {
    const bool is_second = i >= got.dq.size() / 2;
    EXPECT_EQ(got.dq[i] == 0.0f, is_second) << i;
  }
  for (std::size_t i = 0; i < got.dk.size(); ++i) {
    const std::size_t key = i / 20 % 50;
    const bool is_second = i >= got.dk.size() / 2;
    EXPECT_EQ(got.dk[i] == 0.0f && !std::signbit(got.dk[i]), is_second || key < 7) << i;
  }
}

// NaN and infinities in each input reach what fp64 says, and no hidden pair.
TEST_P(Backward, NanReachesExactlyWhatItMust) {
  Random random(5);
  for (int n = 0; n < sweep_size(40); ++n) {
    BackwardCase c = shape(random.between(1, 70), random.between(1, 70));
    c.forward.seed = random.bits();
    c.forward = masked(c.forward, static_cast<int>(random.between(0, kMaskKinds - 1)));
    if (random.one_in(2)) c.forward.mask = TermLayout::full, c.forward.mask_block = 5;
    const BackwardProblem made(c, context);
    const std::string where = made.put(random.pick({kNan, kNan, kInf}), n, random);
    SCOPED_TRACE(::testing::Message() << c << ": " << where);
    made.forward.run(context);
    const Gradients got = made.run(context);
    const GradientResult<double> want = made.answer().fp64;
    ASSERT_NO_FATAL_FAILURE(expect_finite_where(got, want));
  }
}

// In products of f32 inputs of 16 bits are widened and results rounded once: the bits of the f32 call on the
// same numbers.
TEST_P(Backward, OfNarrowTypesIsTheRoundedOneOfF32) {
  for (const DataType type : {DataType::bf16, DataType::f16}) {
    BackwardCase c = shape(70, 130);
    c.forward.is_causal = true;
    const BackwardProblem problem(c, context);
    const GuardedTensor* const inputs[] = {&problem.forward.q, &problem.forward.k, &problem.forward.v,
                                           &problem.forward.out, &problem.dout};
    for (const GuardedTensor* input : inputs) input->round_to(type);
    const Gradients want = problem.run(context);
    NarrowTensor narrow[8];
    for (int i = 0; i < 5; ++i)
      narrow[i] = NarrowTensor(*inputs[i], type, Flush::back), narrow[i].copy(*inputs[i]);
    narrow[5] = NarrowTensor(problem.dq, type, Flush::back);
    narrow[6] = NarrowTensor(problem.dk, type, Flush::front);
    narrow[7] = NarrowTensor(problem.dv, type, Flush::back);
    BackwardArgs args = problem.args();
    args.forward.precision = Precision::standard;
    args.forward.q = narrow[0].input(), args.forward.k = narrow[1].input(),
    args.forward.v = narrow[2].input();
    args.forward.out = narrow[3].output(), args.dout = narrow[4].input();
    args.dq = narrow[5].output(), args.dk = narrow[6].output(), args.dv = narrow[7].output();
    ASSERT_TRUE(attention_backward(context, args).ok());
    const std::vector<float>* const wanted[] = {&want.dq, &want.dk, &want.dv};
    for (int t = 0; t < 3; ++t) {
      EXPECT_TRUE(narrow[5 + t].gaps_untouched());
      EXPECT_TRUE(are_rounded_once(narrow[5 + t].elements(), *wanted[t], type)) << "gradient " << t;
    }
  }
}

// dout and each gradient have types of their own.
TEST_P(Backward, OfEachTensorHasItsOwnType) {
  BackwardCase c = shape(70, 130);
  c.forward.is_causal = true;
  const BackwardProblem problem(c, context);
  problem.dout.round_to(DataType::f16);
  const Gradients want = problem.run(context);
  const NarrowTensor dout(problem.dout, DataType::f16, Flush::back),
      dq(problem.dq, DataType::bf16, Flush::back), dk(problem.dk, DataType::f16, Flush::back);
  dout.copy(problem.dout);
  BackwardArgs args = problem.args();
  args.dout = dout.input(), args.dq = dq.output(), args.dk = dk.output();
  problem.poison_gradients();
  const Status status = attention_backward(context, args);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(are_rounded_once(dq.elements(), want.dq, DataType::bf16));
  EXPECT_TRUE(are_rounded_once(dk.elements(), want.dk, DataType::f16));
  EXPECT_TRUE(same_bits(problem.dv.elements(), want.dv));
  EXPECT_TRUE(dq.gaps_untouched() && dk.gaps_untouched());
}

// Sequences packed one after another have the bits of calls of their own; rows after the last are not
// written.
TEST_P(Backward, OfPackedSequencesIsThatOfEach) {
  BackwardCase c = shape(90, 120);
  c.forward.batch = 1, c.forward.is_causal = true;
  const BackwardProblem problem(c, context);
  const Packing packing{{0, 30, 30, 85}, {0, 50, 60, 110}};
  BackwardArgs packed = problem.args();
  packing.pack(&packed);
  ASSERT_TRUE(attention_forward(context, packed.forward).ok());
  problem.poison_gradients();
  ASSERT_TRUE(attention_backward(context, packed).ok());
  const Gradients got{problem.dq.elements(), problem.dk.elements(), problem.dv.elements(), {}};
  problem.poison_gradients();
  for (std::size_t s = 0; s < 3; ++s)
    ASSERT_TRUE(attention_backward(context, packing.alone(problem.args(), s)).ok());
  EXPECT_TRUE(same_bits(got, {problem.dq.elements(), problem.dk.elements(), problem.dv.elements(), {}}));
  EXPECT_TRUE(is_poison(problem.dq.at(0, 3, 85, 0)) && is_poison(problem.dk.at(0, 1, 110, 0)));
}

// The keys of such sequences dense or packed, used in part, under causality, prefixes and a window: dk and dv
// of keys that are not used are 0.
TEST_P(Backward, OfPackedQueriesIsThatOfEachWhereverTheKeysLie) {
  constexpr std::int64_t kQ = 4, kKv = 2, kQueries = 93, kCapacity = 70, kDim = 20, kValueDim = 12;
  const std::int32_t q_begin[] = {0, 30, 30, 90}, k_begin[] = {0, 70, 140, 210}, used[] = {70, 9, 41},
                     prefixes[] = {3, 0, 10};
  const std::uint8_t causal[] = {1, 1, 0};
  Random random(test_seed(12));
  const auto numbers = [&](std::int64_t count) {
    std::vector<float> all(static_cast<std::size_t>(count));
    for (float& x : all) x = random.normal();
    return all;
  };
  const std::vector<float> q = numbers(kQ * kQueries * kDim), dout = numbers(kQ * kQueries * kValueDim),
                           k = numbers(kKv * 3 * kCapacity * kDim),
                           v = numbers(kKv * 3 * kCapacity * kValueDim);
  for (const bool is_packed : {false, true}) {
    // Keys: [3, heads, capacity, dim], or [1, heads, 3 * capacity, dim].
    const auto keys = [&](auto* data, std::int64_t dim) {
      using View =
          std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(data)>>, ConstTensor, Tensor>;
      return is_packed ? View::bshd(data, 1, 3 * kCapacity, kKv, dim)
                       : View::bshd(data, 3, kCapacity, kKv, dim);
    };
    std::vector<float> out(dout.size()), lse(kQ * kQueries), gradients[2];
    BackwardArgs all;
    AttentionArgs& f = all.forward;
    f.q = ConstTensor::bhsd(q.data(), 1, kQ, kQueries, kDim);
    f.k = keys(k.data(), kDim), f.v = keys(v.data(), kValueDim);
    f.out = Tensor::bhsd(out.data(), 1, kQ, kQueries, kValueDim), f.lse.data = lse.data();
    f.window_left = 25;
    all.dout = ConstTensor::bhsd(dout.data(), 1, kQ, kQueries, kValueDim);
    for (std::vector<float>& of : gradients) {
      of.assign(q.size() + k.size() + v.size(), 7.0f);
      all.dq = Tensor::bhsd(of.data(), 1, kQ, kQueries, kDim);
      all.dk = keys(of.data() + q.size(), kDim), all.dv = keys(of.data() + q.size() + k.size(), kValueDim);
      if (&of == &gradients[0]) {
        BackwardArgs packed = all;
        packed.forward.cu_seqlens_q = q_begin, packed.forward.num_sequences = 3;
        if (is_packed) packed.forward.cu_seqlens_k = k_begin;
        packed.forward.seqused_k = used, packed.forward.prefix_lens = prefixes;
        packed.forward.causal_sequences = causal;
        ASSERT_TRUE(attention_forward(context, packed.forward).ok());
        const Status status = attention_backward(context, packed);
        ASSERT_TRUE(status.ok()) << status.message();
        continue;
      }
      for (std::int64_t b = 0; b < 3; ++b) {
        BackwardArgs one = all;
        const auto cut = [](auto* view, std::int64_t first, std::int64_t count, std::size_t dim) {
          view->data = const_cast<float*>(static_cast<const float*>(view->data)) + first * view->stride[dim];
          view->shape[dim] = count;
        };
        const std::int64_t rows = q_begin[b + 1] - q_begin[b];
        cut(&one.forward.q, q_begin[b], rows, 2), cut(&one.forward.out, q_begin[b], rows, 2);
        cut(&one.dout, q_begin[b], rows, 2), cut(&one.dq, q_begin[b], rows, 2);
        one.forward.lse.data += q_begin[b], one.forward.lse.stride = {0, kQueries, 1};
        const auto cut_keys = [&](auto* view) {
          is_packed ? cut(view, b * kCapacity, kCapacity, 2) : cut(view, b, 1, 0);
        };
        cut_keys(&one.forward.k), cut_keys(&one.forward.v), cut_keys(&one.dk), cut_keys(&one.dv);
        one.forward.seqused_k = used + b, one.forward.prefix_lens = prefixes + b;
        one.forward.is_causal = causal[b] != 0;
        const Status status = attention_backward(context, one);
        ASSERT_TRUE(status.ok()) << status.message();
      }
    }
    EXPECT_TRUE(same_bits(gradients[0], gradients[1])) << is_packed;
    EXPECT_EQ(gradients[0][q.size() + (kCapacity + 9) * kKv * kDim], 0.0f)
        << "the first key that is not used";
    EXPECT_EQ(gradients[0][(kQueries - 1) * kDim], 7.0f) << "a row of no sequence";
  }
}

TEST_P(Backward, OfNothingIsNothing) {
  for (const auto& [q_len, kv_len] : {std::pair(0, 7), std::pair(9, 0), std::pair(0, 0)}) {
    BackwardCase c = shape(q_len, kv_len);
    c.forward.sinks = true;
    const BackwardProblem problem(c, context);
    const Gradients got = problem.run(context);
    EXPECT_EQ(got.dq, std::vector<float>(got.dq.size()));
    EXPECT_EQ(got.dk, std::vector<float>(got.dk.size()));
    EXPECT_EQ(got.dv, std::vector<float>(got.dv.size()));
    EXPECT_EQ(got.dsinks, std::vector<float>(4));
  }
  // More heads than there could be tasks.
  BackwardArgs empty;
  const auto of = [&](auto* view) { view->shape = {1, 1'000'000'000, 0, 8}; };
  of(&empty.forward.q), of(&empty.forward.k), of(&empty.forward.v), of(&empty.forward.out), of(&empty.dout);
  of(&empty.dq), of(&empty.dk), of(&empty.dv);
  EXPECT_TRUE(attention_backward(context, empty).ok());
}

INSTANTIATE_TEST_SUITE_P(Isas, Backward, ::testing::ValuesIn(swept_isas()), StringName());

// Three pieces of keys, of which the mask hides the second from every query: with its pages gone, the same
// bits.
TEST(BackwardMask, PiecesThatAreHiddenFromAllQueriesAreNotRead) {
  constexpr std::int64_t kQueries = 200, kPiece = kernels::kGradientPiece, kKeys = 3 * kPiece, kDim = 256;
  constexpr std::size_t kRows = kPiece * kDim * sizeof(float), kBytes = 3 * kRows;
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  ASSERT_EQ(kRows % page, 0u);
  Random random(test_seed(91));
  float* mapped[2];
  for (float*& x : mapped) {
    void* const memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    x = static_cast<float*>(memory);
    for (std::size_t i = 0; i < kBytes / sizeof(float); ++i) x[i] = random.normal();
  }
  std::vector<float> q(kQueries * kDim), dout(q.size()), out(q.size()), lse(kQueries);
  for (auto* x : {&q, &dout})
    for (float& value : *x) value = random.normal();
  std::vector<std::uint8_t> mask(kQueries * kKeys, 1);
  for (std::size_t i = 0; i < mask.size(); ++i)
    if (const std::size_t key = i % kKeys; key >= kPiece && key < 2 * kPiece) mask[i] = 0;
  BackwardArgs args;
  args.forward.q = ConstTensor::bhsd(q.data(), 1, 1, kQueries, kDim);
  args.forward.k = ConstTensor::bhsd(mapped[0], 1, 1, kKeys, kDim);
  args.forward.v = ConstTensor::bhsd(mapped[1], 1, 1, kKeys, kDim);
  args.forward.out = Tensor::bhsd(out.data(), 1, 1, kQueries, kDim);
  args.forward.lse.data = lse.data();
  args.forward.mask = ConstTensor::bhsd(mask.data(), 1, 1, kQueries, kKeys, DataType::boolean);
  args.dout = ConstTensor::bhsd(dout.data(), 1, 1, kQueries, kDim);
  const Context context = context_of("", "serial");
  ASSERT_TRUE(attention_forward(context, args.forward).ok());
  std::vector<float> gradients[2];
  for (auto& of : gradients) {
    of.assign((kQueries + 2 * kKeys) * kDim, kNan);
    args.dq = Tensor::bhsd(of.data(), 1, 1, kQueries, kDim);
    args.dk = Tensor::bhsd(of.data() + kQueries * kDim, 1, 1, kKeys, kDim);
    args.dv = Tensor::bhsd(of.data() + (kQueries + kKeys) * kDim, 1, 1, kKeys, kDim);
    ASSERT_TRUE(attention_backward(context, args).ok());
    for (float* x : mapped) ASSERT_EQ(mprotect(x + kPiece * kDim, kRows, PROT_NONE), 0);
  }
  EXPECT_EQ(std::memcmp(gradients[0].data(), gradients[1].data(), gradients[0].size() * sizeof(float)), 0);
  EXPECT_EQ(gradients[0][(kQueries + kPiece) * kDim], 0.0f);
  for (float* x : mapped) munmap(x, kBytes);
}

}  // namespace
}  // namespace kumiko::test
