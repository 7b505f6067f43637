// SPDX-License-Identifier: Apache-2.0
// A token's row has the same bits from one prefill, chunked prefill or decode, alone or in a batch.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/support/bits.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

struct Chunking : ::testing::TestWithParam<std::string> {
  Context context = context_of(GetParam(), "openmp");

  // Rows [first, last) of a causal self-attention of n tokens, computed over the keys that exist by then.
  // `cache`: the keys are in a view of full length and seqused_k gives their number, as in a preallocated KV
  // cache.
  Outcome chunk(const Problem& problem, std::int64_t first, std::int64_t last, bool cache,
                Pipeline pipeline) {
    AttentionArgs args = problem.args(pipeline);
    const auto used = static_cast<std::int32_t>(last);
    args.q.data = static_cast<const float*>(args.q.data) + first * args.q.stride[2];
    args.q.shape[2] = last - first;
    for (ConstTensor* term : {&args.bias, &args.mask}) {
      if (!term->data) continue;
      const std::int64_t bytes = term->dtype == DataType::f32 ? 4 : term->dtype == DataType::boolean ? 1 : 2;
      term->data = static_cast<const char*>(term->data) + first * term->stride[2] * bytes;
      term->shape[2] = last - first;
      if (!cache) term->shape[3] = last;
    }
    if (cache) {
      args.seqused_k = &used;
    } else {
      args.k.shape[2] = args.v.shape[2] = last;
    }
    const GuardedTensor out({1, args.q.shape[1], last - first, args.v.shape[3]}, Layout::bhsd, Flush::back);
    const GuardedLse lse(1, args.q.shape[1], last - first, GuardedLse::Layout::contiguous, Flush::back);
    args.out = out.output();
    args.lse = lse.view();
    const GuardedLse row_max(1, args.q.shape[1], last - first, GuardedLse::Layout::padded, Flush::front);
    args.row_max = row_max.view();
    const Status status = attention_forward(context, args);
    EXPECT_TRUE(status.ok()) << status.message();
    return {out.elements(), lse.elements(), row_max.elements()};
  }

  // Rows [first, last) of every head of an outcome of n rows a head.
  static Outcome rows(const Outcome& all, std::int64_t heads, std::int64_t n, std::int64_t dim,
                      std::int64_t first, std::int64_t last) {
    Outcome part;
    for (std::int64_t h = 0; h < heads; ++h) {
      part.out.insert(part.out.end(), all.out.begin() + (h * n + first) * dim,
                      all.out.begin() + (h * n + last) * dim);
      part.lse.insert(part.lse.end(), all.lse.begin() + h * n + first, all.lse.begin() + h * n + last);
      part.row_max.insert(part.row_max.end(), all.row_max.begin() + h * n + first,
                          all.row_max.begin() + h * n + last);
    }
    return part;
  }

  static Case tokens(std::int64_t n, std::int64_t q_heads, std::int64_t kv_heads, std::int64_t dim) {
    Case c;
    c.q_len = c.kv_len = n;
    c.q_heads = q_heads;
    c.kv_heads = kv_heads;
    c.head_dim = dim;
    c.v_head_dim = dim + 1;
    c.is_causal = true;
    c.row_max = GuardedLse::Layout::contiguous;
    return c;
  }
};

TEST_P(Chunking, AnyChunksEqualOnePrefill) {
  Random random(test_seed(71));
  for (int repeat = 0; repeat < 6; repeat += thinned(1, 5, 5)) {
    Case c = tokens(repeat % 2 ? thinned(1100, 1100, 530) : 570, 4, repeat % 3 == 0 ? 4 : 1, 16);
    c.seed = 100 + static_cast<std::uint64_t>(repeat);
    if (repeat >= 3) c.window_left = random.between(0, 700);
    if (repeat == 5) c.v_magnitude = 1e-44f, c.scale = 8.0f;
    const Problem problem(c);
    const Outcome whole = problem.run(context);
    for (std::int64_t first = 0; first < c.q_len;) {
      const std::int64_t last =
          std::min(c.q_len, first + (random.one_in(3) ? random.between(1, 8) : random.between(9, 300)));
      const Pipeline pipeline = kPipelines[random.between(0, std::size(kPipelines) - 1)];
      SCOPED_TRACE(::testing::Message() << GetParam() << " " << c << " rows " << first << ".." << last
                                        << " pipeline " << static_cast<int>(pipeline));
      ASSERT_TRUE(same_bits(chunk(problem, first, last, random.one_in(2), pipeline),
                            rows(whole, c.q_heads, c.q_len, c.v_head_dim, first, last)));
      first = last;
    }
  }
}

// Bias, ALiBi and mask depend on the positions of query and key, wherever a chunk begins.
TEST_P(Chunking, AnyChunksEqualOnePrefillWithTerms) {
  Random random(test_seed(73));
  // Bits: softcap, bias, ALiBi, mask.
  for (const int terms : {1, 2, 4, 8, 15}) {
    if (terms < 15 && terms != thinned(terms, terms, 4)) continue;
    Case c = tokens(thinned(600, 330, 270), 4, 2, 12);
    c.seed = 300 + static_cast<std::uint64_t>(terms);
    if (terms & 1) c.softcap = 2.0f;
    if (terms & 2) c.bias = TermLayout::heads, c.bias_type = terms == 2 ? DataType::f32 : DataType::bf16;
    if (terms & 4) c.alibi = 1;
    if (terms & 8) c.mask = terms == 8 ? TermLayout::positions : TermLayout::full, c.mask_block = 24;
    const Problem problem(c);
    const Outcome whole = problem.run(context);
    for (std::int64_t first = 0; first < c.q_len;) {
      const std::int64_t last =
          std::min(c.q_len, first + (random.one_in(3) ? random.between(1, 8) : random.between(9, 200)));
      const Pipeline pipeline = kPipelines[random.between(0, std::size(kPipelines) - 1)];
      SCOPED_TRACE(::testing::Message() << GetParam() << " " << c << " rows " << first << ".." << last
                                        << " pipeline " << static_cast<int>(pipeline));
      ASSERT_TRUE(same_bits(chunk(problem, first, last, random.one_in(2), pipeline),
                            rows(whole, c.q_heads, c.q_len, c.v_head_dim, first, last)));
      first = last;
    }
  }
}

TEST_P(Chunking, TokenByTokenEqualsOnePrefill) {
  for (const std::int64_t kv_heads : {1, 2}) {
    const Case c = tokens(thinned(1060, 150, 40), 2, kv_heads, 20);
    const Problem problem(c);
    const Outcome whole = problem.run(context);
    for (std::int64_t i = 0; i < c.q_len; ++i) {
      SCOPED_TRACE(::testing::Message() << GetParam() << " " << c << " token " << i);
      ASSERT_TRUE(same_bits(chunk(problem, i, i + 1, i % 2 == 0, Pipeline::automatic),
                            rows(whole, c.q_heads, c.q_len, c.v_head_dim, i, i + 1)));
    }
  }
}

TEST_P(Chunking, ASequenceAloneEqualsTheSameSequenceInABatch) {
  Random random(test_seed(72));
  for (int repeat = 0; repeat < thinned(8, 8, 2); ++repeat) {
    Case c;
    c.seed = 200 + static_cast<std::uint64_t>(repeat);
    c.batch = 5;
    c.kv_heads = 2;
    c.q_heads = repeat % 2 ? 2 : 6;
    c.q_len = random.pick<std::int64_t>({1, 2, 33, 80});
    c.kv_len = random.pick<std::int64_t>({100, 600, 1200});
    c.head_dim = c.v_head_dim = 24;
    c.is_causal = random.one_in(2);
    for (std::int64_t b = 0; b < c.batch; ++b)
      c.seqused.push_back(static_cast<std::int32_t>(random.between(0, c.kv_len)));
    const Problem problem(c);
    const Outcome batch = problem.run(context);
    for (std::int64_t b = 0; b < c.batch; ++b) {
      SCOPED_TRACE(::testing::Message() << GetParam() << " " << c << " sequence " << b);
      AttentionArgs args = problem.args();
      const std::int64_t used = c.seqused[static_cast<std::size_t>(b)];
      args.q.data = static_cast<const float*>(args.q.data) + b * args.q.stride[0];
      args.k.data = static_cast<const float*>(args.k.data) + b * args.k.stride[0];
      args.v.data = static_cast<const float*>(args.v.data) + b * args.v.stride[0];
      args.q.shape[0] = args.k.shape[0] = args.v.shape[0] = 1;
      args.k.shape[2] = args.v.shape[2] = used;
      args.seqused_k = nullptr;
      const GuardedTensor out({1, c.q_heads, c.q_len, c.v_head_dim}, Layout::bshd, Flush::front);
      const GuardedLse lse(1, c.q_heads, c.q_len, GuardedLse::Layout::padded, Flush::front);
      args.out = out.output();
      args.lse = lse.view();
      const Status status = attention_forward(context, args);
      ASSERT_TRUE(status.ok()) << status.message();
      const auto out_begin = batch.out.begin() + b * c.q_heads * c.q_len * c.v_head_dim;
      const auto lse_begin = batch.lse.begin() + b * c.q_heads * c.q_len;
      const Outcome want{{out_begin, out_begin + c.q_heads * c.q_len * c.v_head_dim},
                         {lse_begin, lse_begin + c.q_heads * c.q_len}};
      ASSERT_TRUE(same_bits({out.elements(), lse.elements()}, want));
    }
  }
}

TEST_P(Chunking, AHeadAloneEqualsTheSameHeadInItsGroup) {
  Case c = tokens(300, 6, 2, 24);
  const Problem problem(c);
  const Outcome all = problem.run(context);
  for (std::int64_t h = 0; h < c.q_heads; ++h) {
    AttentionArgs args = problem.args();
    args.q.data = static_cast<const float*>(args.q.data) + h * args.q.stride[1];
    args.k.data = static_cast<const float*>(args.k.data) + h / 3 * args.k.stride[1];
    args.v.data = static_cast<const float*>(args.v.data) + h / 3 * args.v.stride[1];
    args.q.shape[1] = args.k.shape[1] = args.v.shape[1] = 1;
    const GuardedTensor out({1, 1, c.q_len, c.v_head_dim}, Layout::padded, Flush::front);
    args.out = out.output();
    args.lse = {};
    const Status status = attention_forward(context, args);
    ASSERT_TRUE(status.ok()) << status.message();
    const auto begin = all.out.begin() + h * c.q_len * c.v_head_dim;
    EXPECT_TRUE(same_bits(out.elements(), std::vector<float>(begin, begin + c.q_len * c.v_head_dim)))
        << "head " << h;
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, Chunking, ::testing::ValuesIn(swept_isas()), StringName());

}  // namespace
}  // namespace kumiko::test
