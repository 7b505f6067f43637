// SPDX-License-Identifier: Apache-2.0
// Multi-head latent attention: one KV head whose values are a part of its keys' rows. The result is that of
// values in a tensor of their own, bit for bit, and what is read is counted once.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "kernels/pipelines/walk.h"
#include "runtime/plan.h"
#include "tests/runtime/contexts.h"
#include "tests/runtime/server_step.h"
#include "tests/support/bits.h"
#include "tests/support/numbers.h"

namespace kumiko::test {
namespace {

constexpr DataType kTypes[] = {DataType::f32, DataType::bf16, DataType::f16};

struct Dims {
  std::int64_t head_dim, v_head_dim, first;
};

/// A case whose values are also a copy of elements of the keys.
struct Latents {
  Problem problem;
  std::int64_t first;

  Latents(const Case& c, std::int64_t from) : problem(c), first(from) { copy(); }
  void copy() const { copy_values_of_keys(problem.k, first, problem.v); }
  AttentionArgs views(Pipeline pipeline) const {
    AttentionArgs args = problem.args(pipeline);
    args.v = values_in_keys(args.k, first, args.v.shape[3]);
    return args;
  }
};

Case case_of(std::int64_t heads, std::int64_t q_len, std::int64_t kv_len, const Dims& dims) {
  Case c;
  c.q_heads = heads, c.q_len = q_len, c.kv_len = kv_len;
  c.head_dim = dims.head_dim, c.v_head_dim = dims.v_head_dim;
  c.is_causal = true, c.row_max = GuardedLse::Layout::contiguous;
  return c;
}

struct Mla : testing::TestWithParam<std::string> {
  Random random{test_seed(91)};
  Context context = context_of(GetParam(), "openmp");

  // In every pipeline the bits of values that are a copy; one of them against fp64.
  void check(Case c, const Dims& dims) {
    c.seed = random.bits();
    SCOPED_TRACE(testing::Message() << GetParam() << ": " << c << ", values from " << dims.first << " on");
    const Latents latents(c, dims.first);
    const Outcome want = latents.problem.run(context);
    const auto fp64 = attention_fp64(latents.problem.args());
    const auto naive = attention_naive_f32(latents.problem.args());
    ASSERT_TRUE(
        meets_error_promise(want.out, want.lse, fp64, naive, nullptr, DataType::f32, GetParam() == "sve512"));
    ASSERT_TRUE(row_max_is_right(want.row_max, fp64, naive));
    for (const Pipeline pipeline : kPipelines)
      ASSERT_TRUE(same_bits(latents.problem.run(context, latents.views(pipeline)), want))
          << static_cast<int>(pipeline);
  }
};

TEST_P(Mla, AnyHeadsAndDimsGiveTheBitsOfACopy) {
  constexpr Dims kDims[] = {{576, 512, 0}, {192, 128, 64}, {64, 48, 0},
                            {64, 48, 16},  {72, 37, 30},   {40, 40, 0}};
  for (const Dims& dims : kDims) {
    for (const std::int64_t heads : {1, 3, 16, 64, 128}) {
      const std::int64_t kv_len = random.pick({1, 7, 255, 256, 257, 300, 530});
      if (heads * kv_len * dims.head_dim > thinned(20'000'000, 200'000, 200'000)) continue;
      ASSERT_NO_FATAL_FAILURE(check(case_of(heads, 1, kv_len, dims), dims)) << heads;
    }
  }
}

TEST_P(Mla, ChunksWindowsTermsAndSeveralHeads) {
  constexpr Dims kDims[] = {{64, 48, 8}, {48, 16, 32}};
  for (const Dims& dims : kDims) {
    for (int kind = 0; kind < 6; ++kind) {
      if (kThinned && !random.one_in(5)) continue;
      Case c = case_of(kThinned ? 6 : 16, random.pick({2, 9, 40}),
                       random.pick({70, 300, kThinned ? 290 : 600}), dims);
      if (kind == 1) c.window_left = 40;
      if (kind == 2) c.mask = TermLayout::heads, c.mask_block = 16;
      if (kind == 3) c.bias = TermLayout::full, c.softcap = 4.0f;
      if (kind == 4) c.q_heads = 12, c.kv_heads = 3, c.batch = 2, c.k_layout = Layout::padded_bshd;
      if (kind == 5) c.window_left = 20, c.window_sink_tokens = 5, c.sinks = true;
      if (kind > 3)
        c.seqused.assign(static_cast<std::size_t>(c.batch), static_cast<std::int32_t>(c.kv_len - 11));
      ASSERT_NO_FATAL_FAILURE(check(c, dims)) << kind;
    }
  }
}

// NaN and infinity in a latent reach the rows that see it, in the same elements as those of a copy.
TEST_P(Mla, ValuesThatAreNotFinite) {
  for (int kind = 0; kind < 4; ++kind) {
    Case c = case_of(3, kind == 0 ? 1 : 40, 290, {24, 16, 4});
    if (kind == 2) c.window_left = 5, c.is_causal = false;
    if (kind == 3) c.mask = TermLayout::heads, c.is_causal = false;
    const Latents latents(c, 4);
    for (const float x : {std::numeric_limits<float>::quiet_NaN(), kInf, -kInf}) {
      for (const std::int64_t key : {0, 253, 270}) {
        for (const std::int64_t d : {0, 4, 9, 23}) {
          if (kThinned && !random.one_in(6)) continue;
          const float kept = latents.problem.k.at(0, 0, key, d);
          latents.problem.k.at(0, 0, key, d) = x;
          latents.copy();
          const Outcome want = latents.problem.run(context);
          for (const Pipeline pipeline : kPipelines)
            ASSERT_TRUE(same_bits(latents.problem.run(context, latents.views(pipeline)), want))
                << x << " at " << key << ", " << d << ", pipeline " << static_cast<int>(pipeline);
          latents.problem.k.at(0, 0, key, d) = kept;
        }
      }
    }
  }
}

TEST_P(Mla, NarrowTypes) {
  for (const DataType type : {DataType::bf16, DataType::f16}) {
    for (const Dims& dims : {Dims{72, 64, 0}, Dims{64, 31, 33}}) {
      for (const std::int64_t heads : {3, 16, 70}) {
        if (kThinned && !random.one_in(4)) continue;
        Case c = case_of(heads, 1, 300, dims);
        c.seed = random.bits();
        const Latents latents(c, dims.first);
        const Problem& problem = latents.problem;
        for (const GuardedTensor* t : {&problem.q, &problem.k}) t->round_to(type);
        latents.copy();
        const NarrowTensor q(problem.q, type, Flush::back), k(problem.k, type, Flush::front),
            v(problem.v, type, Flush::back);
        q.copy(problem.q), k.copy(problem.k), v.copy(problem.v);
        AttentionArgs args = problem.args();
        args.q = q.input(), args.k = k.input(), args.v = v.input();
        const Outcome want = latents.problem.run(context, args);
        args.v = values_in_keys(args.k, dims.first, dims.v_head_dim);
        for (const Pipeline pipeline : kPipelines) {
          args.pipeline = pipeline;
          ASSERT_TRUE(same_bits(latents.problem.run(context, args), want))
              << heads << " " << static_cast<int>(pipeline);
        }
      }
    }
  }
}

// Pages of any size and layout, chunks of prompts beside decodes, several threads, NaN in every other row.
TEST_P(Mla, PagesGiveTheBitsOfDenseCopies) {
  const std::vector<Context> contexts = contexts_of(GetParam());
  for (const std::int64_t page_keys : {1, 16, 64, 100}) {
    for (const Layout layout : {Layout::bhsd, Layout::bshd}) {
      for (const DataType type : kTypes) {
        if (kThinned && !random.one_in(6)) continue;
        StepShape s;
        s.seed = random.bits();
        s.sequences = {{1, 300}, {1, 530, 0, 300}, {random.pick({3, 9}), 290}, {33, 70}};
        s.q_heads = random.pick({3, 16, 40}), s.kv_heads = random.pick({1, 1, 2});
        s.q_heads *= s.kv_heads;
        s.head_dim = random.pick({64, 72}), s.v_head_dim = random.pick({48, 33});
        s.value_in_key = random.pick({0, 3, 16});
        s.page_keys = page_keys, s.k_layout = layout, s.type = type, s.is_causal = random.one_in(2);
        if (page_keys == 100 && type == DataType::f16) s.page_lists = true;
        const ServerStep step(s);
        const Context& on = contexts[static_cast<std::size_t>(random.between(0, std::ssize(contexts) - 1))];
        step.poison_outputs();
        const Status status = attention_forward(on, step.args());
        ASSERT_TRUE(status.ok()) << status.message();
        ASSERT_NO_FATAL_FAILURE(expect_rows_of_sequences_alone(step, on)) << s;
      }
    }
  }
}

// Pointers may change from run to run: each run looks at its own. Here values apart are those of the keys
// with the other sign, and so are their results.
TEST_P(Mla, RunsOfOnePlanWithViewsAndWithCopies) {
  for (const std::int64_t heads : {3, 40}) {
    const Latents latents(case_of(heads, 1, 600, {40, 24, 8}), 8);
    AttentionArgs copy = latents.problem.args(), view = latents.views(Pipeline::automatic);
    copy.v.stride = view.v.stride;
    std::vector<float> apart(static_cast<std::size_t>(600 * 40), poison());
    for (std::int64_t j = 0; j < 600; ++j)
      for (std::int64_t d = 0; d < 24; ++d)
        apart[static_cast<std::size_t>(j * 40 + d)] = -latents.problem.v.at(0, 0, j, d);
    copy.v.data = apart.data();
    AttentionArgs blank = view;
    blank.k.data = blank.v.data = nullptr;
    const Outcome want = latents.problem.run(context, latents.problem.args());
    Outcome want_apart = want;
    for (float& x : want_apart.out) x = -x;
    for (const AttentionArgs& planned : {blank, view, copy}) {
      Plan made;
      ASSERT_TRUE(plan(context, planned, &made).ok());
      EXPECT_EQ(made.explain().find(", values in the keys' rows") != std::string::npos,
                planned.v.data == view.v.data);
      for (const AttentionArgs& args : {view, copy, view}) {
        latents.problem.poison_outputs();
        ASSERT_TRUE(made.run(args).ok());
        ASSERT_TRUE(same_bits(latents.problem.outcome(), args.v.data == apart.data() ? want_apart : want));
      }
    }
  }
}

// Views that are not of their own key's row are tensors as any other.
TEST_P(Mla, OtherOverlapsOfKeysAndValues) {
  Case c = case_of(40, 1, 200, {24, 16, 0});
  const Problem problem(c);
  std::vector<float> memory;
  for (int i = 0; i < 30 * 202; ++i) memory.push_back(random.normal());
  struct Place {
    std::int64_t k_stride, v_stride, v_first;
  };
  for (const Place& place :
       {Place{24, 24, 9}, Place{24, 24, 24}, Place{24, 25, 0}, Place{30, 30, 9}, Place{24, 24, -3}}) {
    AttentionArgs args = problem.args();
    args.k.data = memory.data() + 3, args.k.stride[2] = place.k_stride;
    args.v.data = memory.data() + 3 + place.v_first, args.v.stride[2] = place.v_stride;
    const auto view = [&](const ConstTensor& t, std::int64_t j, std::int64_t d) {
      return static_cast<const float*>(t.data)[j * t.stride[2] + d];
    };
    for (std::int64_t j = 0; j < 200; ++j) {
      for (std::int64_t d = 0; d < 24; ++d) problem.k.at(0, 0, j, d) = view(args.k, j, d);
      for (std::int64_t d = 0; d < 16; ++d) problem.v.at(0, 0, j, d) = view(args.v, j, d);
    }
    const Outcome want = problem.run(context);
    problem.poison_outputs();
    ASSERT_TRUE(attention_forward(context, args).ok());
    ASSERT_TRUE(same_bits(problem.outcome(), want)) << place.v_first;
    Plan made;
    ASSERT_TRUE(plan(context, args, &made).ok());
    EXPECT_EQ(made.explain().find(", values in the keys' rows"), std::string::npos);
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, Mla, ::testing::ValuesIn(swept_isas()), StringName());

// "reads 4096 bytes of K and V locally": the number.
std::int64_t bytes_read(const std::string& text) {
  return std::stoll(text.substr(text.find("memory: reads ") + 14));
}

TEST(MlaPlan, CountsALatentOnce) {
  const Context context = context_of("reference", "serial");
  const Latents latents(case_of(4, 1, 512, {72, 64, 8}), 8);
  Plan view, copy;
  ASSERT_TRUE(plan(context, latents.views(Pipeline::automatic), &view).ok());
  ASSERT_TRUE(plan(context, latents.problem.args(), &copy).ok());
  EXPECT_EQ(bytes_read(view.explain()), 512 * 72 * 4);
  EXPECT_EQ(bytes_read(copy.explain()), 512 * (72 + 64) * 4);
  const MachineRates slow_memory{1e15, 1e6, 1e6, 0};
  EXPECT_NEAR(view.predict(slow_memory).attainable_seconds, 512 * 72 * 4 / 1e6, 1e-6);
  EXPECT_NEAR(copy.predict(slow_memory).attainable_seconds, 512 * 136 * 4 / 1e6, 1e-6);
}

// The packed keys are the operand of both products wherever all rows see the block, on ISAs with such
// kernels.
TEST(MlaWalk, UsesThePackedKeysAsValues) {
  for (const std::string& isa : {std::string("reference"), std::string("avx2"), std::string("avx512")}) {
    const auto all = host_isas();
    if (std::find(all.begin(), all.end(), isa) == all.end()) continue;
    const Latents latents(case_of(4, 20, 300, {72, 64, 8}), 8);
    const AttentionArgs args = latents.views(Pipeline::online);
    const kumiko::Problem lowered = lower(args);
    const kernels::HeadProblem head = lowered.head(operands_of(args), 0, 0);
    EXPECT_EQ(head.value_in_key, 8);
    const kernels::KernelSet& kernels = *kernels::kernel_set(
        isa == "avx2"     ? kernels::Isa::avx2
        : isa == "avx512" ? kernels::Isa::avx512
                          : kernels::Isa::reference,
        {kernels::Element::f32, kernels::Element::f32, kernels::Element::f32, kernels::Element::f32});
    const kernels::TaskRange range{0, 80, 0, 1, nullptr, 0, 0, 0};
    std::vector<std::byte> memory(kernels::Walk(kernels, 80, 72, 64, 1, nullptr).scratch_bytes() + 64);
    auto* const aligned =
        reinterpret_cast<std::byte*>((reinterpret_cast<std::uintptr_t>(memory.data()) + 63) / 64 * 64);
    kernels::Walk walk(kernels, 80, 72, 64, 1, aligned);
    walk.begin(head, range);
    const kernels::Walk::Keys keys = walk.keys_of(0);
    for (const std::int64_t at : {0, 256}) {  // the first query sees 281 keys
      kernels::Block block = walk.block_at(at, keys);
      walk.pack_keys(block);
      walk.set_values(block);
      EXPECT_EQ(block.values_in_keys, at == 0) << isa << " " << at;
    }
  }
}

}  // namespace
}  // namespace kumiko::test
