// SPDX-License-Identifier: Apache-2.0
// The same bits for any thread count, executor, policy, topology and pipeline.
#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <memory>

#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/runtime/shapes.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

// Prefill, causal prefill, chunk, decode, ragged batches; keys past one and two splits of 512.
std::vector<Case> cases() {
  std::vector<Case> list;
  const struct {
    std::int64_t batch, q_heads, kv_heads, q_len, kv_len, dim;
    bool causal;
  } rows[] = {{1, 3, 3, 130, 130, 32, true}, {1, 4, 2, 77, 600, 20, false}, {2, 2, 1, 50, 1100, 16, true},
              {1, 8, 2, 1, 1600, 32, true},  {3, 6, 1, 1, 1030, 24, false}, {1, 8, 4, 5, 1537, 40, true},
              {4, 2, 2, 12, 64, 64, true},   {1, 1, 1, 300, 513, 8, true},  {1, 1, 1, 1, 4096, 16, true}};
  for (const auto& r : rows) {
    Case c;
    c.seed = 8000 + list.size();
    c.batch = r.batch;
    c.q_heads = r.q_heads;
    c.kv_heads = r.kv_heads;
    c.q_len = r.q_len;
    c.kv_len = r.kv_len;
    c.head_dim = r.dim;
    c.v_head_dim = r.dim + 3;
    c.row_max = GuardedLse::Layout::bsh;
    c.is_causal = r.causal;
    // Tiny negative values times tiny weights round to -0, whose sign must not depend on the cut either.
    if (list.size() % 3 == 1) c.v_magnitude = 1e-44f, c.scale = 8.0f;
    if (list.size() % 4 == 2) c.window_left = 520;
    list.push_back(c);
    Case terms = c;
    if (list.size() % 2 == 0)
      terms.softcap = 5.0f, terms.bias = TermLayout::full, terms.bias_type = DataType::bf16;
    if (list.size() % 3 == 0) terms.alibi = 1;
    if (list.size() % 2 == 1) terms.mask = TermLayout::heads, terms.mask_block = 16;
    list.push_back(terms);
    if (r.batch > 1) {
      for (std::int64_t b = 0; b < r.batch; ++b)
        c.seqused.push_back(static_cast<std::int32_t>(b == 1 ? 0 : r.kv_len - 9 * b));
      list.push_back(c);
    }
  }
  return list;
}

// Which thread does what depends on no ISA. So where fewer cases are taken (kThinning), all of them run on
// the best ISA and every fourth on the others; under an emulator, whose threads the other programs' tests
// show as well, every fourth on all.
std::vector<Case> cases_on(const std::string& isa) {
  const std::size_t some = kEmulated || isa != host_isas().front() ? 4 : 1;
  return thin(cases(), thinned<std::size_t>(1, some, 3), 1'200'000);
}

struct Bitwise : ::testing::TestWithParam<std::string> {
  const std::vector<Case> list = cases_on(GetParam());
  std::vector<std::unique_ptr<Problem>> problems;
  std::vector<Outcome> want;

  void SetUp() override {
    for (const Case& c : list) {
      problems.push_back(std::make_unique<Problem>(c));
      want.push_back(problems.back()->run(context_of(GetParam(), "serial")));
    }
  }

  void expect_same(ContextOptions options) {
    options.isa = GetParam();
    SCOPED_TRACE(::testing::Message()
                 << "threads " << options.num_threads << " executor " << options.executor << " bind "
                 << options.bind << " policy " << options.policy << " topology " << options.topology);
    Context context;
    const Status status = Context::create(options, &context);
    ASSERT_TRUE(status.ok()) << status.message();
    if (options.num_threads != 0) {
      ASSERT_EQ(context.num_threads(), options.num_threads);
    }
    for (std::size_t i = 0; i < problems.size(); ++i) {
      SCOPED_TRACE(::testing::Message() << list[i]);
      ASSERT_TRUE(same_bits(problems[i]->run(context), want[i]));
    }
  }
};

TEST_P(Bitwise, AnswersAreRightToBeginWith) {
  for (std::size_t i = 0; i < problems.size(); ++i) {
    const AttentionArgs& args = problems[i]->args();
    EXPECT_TRUE(meets_error_promise(want[i].out, want[i].lse, attention_fp64(args), attention_naive_f32(args),
                                    nullptr, DataType::f32, own_arithmetic(GetParam())))
        << list[i];
  }
}

// Under an emulator on 1, 4 and 7.
TEST_P(Bitwise, OneToEightThreadsOnEveryExecutor) {
  for (const std::string& executor : kAllExecutors) {
    for (int threads = 1; threads <= 8; threads += kEmulated ? 3 : 1) {
      if (executor == "serial" && threads > 1) continue;
      ContextOptions options;
      options.executor = executor;
      options.num_threads = threads;
      options.topology = flat_machine(8);
      ASSERT_NO_FATAL_FAILURE(expect_same(options));
    }
  }
}

// Under emulation each topology and policy gets one binding, all bindings in turn.
TEST_P(Bitwise, EveryTopologyPolicyAndBinding) {
  int binding = 0;
  for (const char* topology : {"", "numa:2 core:4 pu:1", "pack:1 l3:2 core:2 pu:1",
                               "pack:2 numa:2 l3:1 core:3 pu:2", "pack:1 core:1 pu:1"}) {
    for (const char* policy : {"heads_first", "flat"}) {
      for (const char* bind : {"close", "spread", "none"}) {
        const int turn = binding / 3 % 3, this_one = binding++ % 3;
        if (kEmulated && this_one != turn) continue;
        ContextOptions options;
        options.topology = topology;
        options.policy = policy;
        options.bind = bind;
        options.executor = kAllExecutors[static_cast<std::size_t>(policy[0] + bind[0]) % 2];
        ASSERT_NO_FATAL_FAILURE(expect_same(options));
      }
    }
  }
}

TEST_P(Bitwise, FewerThreadsThanDomainsAndUnevenSpread) {
  for (int threads = 1; threads <= 5; ++threads) {
    ContextOptions options;
    options.topology = "pack:1 l3:4 core:2 pu:1";
    options.num_threads = threads;
    options.bind = threads % 2 ? "close" : "spread";
    ASSERT_NO_FATAL_FAILURE(expect_same(options));
  }
}

TEST_P(Bitwise, EveryPipeline) {
  const Context context = context_of(GetParam(), "openmp");
  for (std::size_t i = 0; i < problems.size(); ++i) {
    for (const Pipeline pipeline : kPipelines) {
      SCOPED_TRACE(::testing::Message() << list[i] << " pipeline " << static_cast<int>(pipeline));
      ASSERT_TRUE(same_bits(problems[i]->run(context, pipeline), want[i]));
    }
  }
}

TEST_P(Bitwise, RepeatedRunsAndPlansAgreeWithTheFirst) {
  const Context context = context_of(GetParam(), "tbb");
  for (std::size_t i = 0; i < problems.size(); ++i) {
    SCOPED_TRACE(::testing::Message() << list[i]);
    Plan prepared;
    const Status status = plan(context, problems[i]->args(), &prepared);
    ASSERT_TRUE(status.ok()) << status.message();
    for (int repeat = 0; repeat < (kEmulated ? 2 : 5); ++repeat) {
      problems[i]->poison_outputs();
      const Status ran = prepared.run(problems[i]->args());
      ASSERT_TRUE(ran.ok()) << ran.message();
      ASSERT_TRUE(same_bits(problems[i]->outcome(), want[i]));
      ASSERT_TRUE(same_bits(problems[i]->run(context), want[i]));
    }
  }
}

struct BitwiseWithTheReference : Bitwise {};

TEST_P(BitwiseWithTheReference, GivesTheSameBits) {
  const Context reference = context_of("reference", "serial");
  for (std::size_t i = 0; i < problems.size(); ++i) {
    SCOPED_TRACE(::testing::Message() << list[i]);
    ASSERT_TRUE(same_bits(problems[i]->run(reference), want[i]));
  }
}

// No run has two architectures, so the outputs are compared with a digest (64-bit FNV-1a) given here. The LSE
// is left out, because it depends on the system's log2.
TEST(BitwiseAcrossIsas, EveryArchitectureGivesTheSameBits) {
  for (const std::string& isa : host_isas()) {
    std::uint64_t digest = 0xcbf29ce484222325u;
    for (const Case& c : cases()) {
      for (const float x : Problem(c).run(context_of(isa, "serial")).out) {
        ASSERT_NE(std::bit_cast<std::uint32_t>(x), 0x80000000u) << isa << " gives -0 for " << c;
        digest = (digest ^ std::bit_cast<std::uint32_t>(x)) * 0x100000001b3u;
      }
    }
    EXPECT_EQ(digest, own_arithmetic(isa) ? 0xde852c24773a796fu : 0x5d6e5e1528569a3du)
        << isa << std::hex << " gives 0x" << digest;
  }
}

std::vector<std::string> isas_of_common_arithmetic() {
  std::vector<std::string> isas = swept_isas();
  std::erase_if(isas, own_arithmetic);
  return isas;
}

INSTANTIATE_TEST_SUITE_P(Isa, Bitwise, ::testing::ValuesIn(swept_isas()), StringName());
INSTANTIATE_TEST_SUITE_P(Isa, BitwiseWithTheReference, ::testing::ValuesIn(isas_of_common_arithmetic()),
                         StringName());

}  // namespace
}  // namespace kumiko::test
