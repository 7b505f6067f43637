// SPDX-License-Identifier: Apache-2.0
// bf16 and f16: the same bits for any thread count, executor, policy, topology and pipeline, for outputs of
// f32 and of the inputs' type. f32 inputs: bitwise_test.cpp.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/runtime/shapes.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

// Causal prefill, decode along several splits, a ragged batch, a chunk: odd dims and lengths, so that cuts
// fall inside pairs of elements.
std::vector<Case> cases() {
  const struct {
    std::int64_t batch, q_heads, kv_heads, q_len, kv_len, dim;
    bool causal;
  } rows[] = {{1, 2, 1, 97, 130, 31, true},
              {1, 4, 2, 1, 1101, 32, true},
              {3, 2, 1, 5, 1031, 24, false},
              {1, 2, 1, 67, 601, 19, true}};
  std::vector<Case> list;
  for (const auto& r : rows) {
    Case c;
    c.seed = 8500 + list.size();
    c.batch = r.batch, c.q_heads = r.q_heads, c.kv_heads = r.kv_heads, c.q_len = r.q_len, c.kv_len = r.kv_len;
    c.head_dim = r.dim, c.v_head_dim = r.dim + 3, c.is_causal = r.causal;
    if (r.batch == 3) c.seqused = {1031, 0, 515};
    list.push_back(c);
    if (list.size() % 4 == 1) c.mask = TermLayout::heads, c.mask_block = 16;
    if (list.size() % 4 == 3) c.softcap = 5.0f, c.bias = TermLayout::full, c.alibi = 1;
    list.push_back(c);
  }
  return list;
}

/// A case in 16 bits.
class NarrowProblem {
 public:
  NarrowProblem(const Case& c, DataType type)
      : wide_(c),
        q_(wide_.q, type, Flush::back),
        k_(wide_.k, type, Flush::front),
        v_(wide_.v, type, Flush::back),
        out_(wide_.out, type, Flush::back) {
    q_.copy(wide_.q), k_.copy(wide_.k), v_.copy(wide_.v);
  }
  AttentionArgs args(Pipeline pipeline, bool narrow_out) const {
    AttentionArgs args = wide_.args(pipeline);
    args.q = q_.input(), args.k = k_.input(), args.v = v_.input();
    if (narrow_out) args.out = out_.output();
    return args;
  }
  Outcome run(const Context& context, Pipeline pipeline, bool narrow_out) const {
    wide_.poison_outputs();
    out_.poison_all();
    const Status status = attention_forward(context, args(pipeline, narrow_out));
    EXPECT_TRUE(status.ok()) << status.message();
    return {narrow_out ? out_.elements() : wide_.out.elements(), wide_.lse.elements(),
            wide_.row_max.elements()};
  }

 private:
  Problem wide_;
  NarrowTensor q_, k_, v_, out_;
};

struct NarrowBitwise : ::testing::TestWithParam<std::tuple<DataType, std::string>> {
  const std::string& isa() { return std::get<1>(GetParam()); }
  const std::vector<Case> list = thin(cases(), thinned<std::size_t>(1, 5, 5), 2'000'000);
  std::vector<std::unique_ptr<NarrowProblem>> problems;
  std::vector<Outcome> want, want_narrow;

  void SetUp() override {
    const Context context = context_of(isa(), "serial");
    for (const Case& c : list) {
      problems.push_back(std::make_unique<NarrowProblem>(c, std::get<0>(GetParam())));
      want.push_back(problems.back()->run(context, Pipeline::automatic, false));
      want_narrow.push_back(problems.back()->run(context, Pipeline::automatic, true));
    }
  }
  void expect_same(const Context& context, Pipeline pipeline = Pipeline::automatic) {
    for (std::size_t i = 0; i < problems.size(); ++i) {
      SCOPED_TRACE(::testing::Message() << list[i] << " pipeline " << static_cast<int>(pipeline));
      ASSERT_TRUE(same_bits(problems[i]->run(context, pipeline, false), want[i]));
      ASSERT_TRUE(same_bits(problems[i]->run(context, pipeline, true), want_narrow[i]));
    }
  }
  void expect_same(ContextOptions options) {
    options.isa = isa();
    SCOPED_TRACE(::testing::Message() << "threads " << options.num_threads << " executor " << options.executor
                                      << " policy " << options.policy << " topology " << options.topology);
    Context context;
    const Status status = Context::create(options, &context);
    ASSERT_TRUE(status.ok()) << status.message();
    expect_same(context);
  }
};

TEST_P(NarrowBitwise, ThreadsAndExecutors) {
  for (const std::string& executor : kAllExecutors) {
    for (const int threads : {1, 2, 3, 8}) {
      ContextOptions options;
      options.executor = executor;
      options.num_threads = threads;
      options.topology = flat_machine(8);
      ASSERT_NO_FATAL_FAILURE(expect_same(options));
    }
  }
}

TEST_P(NarrowBitwise, TopologiesAndPolicies) {
  for (const char* topology :
       {"", "numa:2 core:4 pu:1", "pack:2 numa:2 l3:1 core:3 pu:2", "pack:1 core:1 pu:1"}) {
    for (const char* policy : {"heads_first", "flat"}) {
      ContextOptions options;
      options.topology = topology;
      options.policy = policy;
      options.executor = "serial";
      ASSERT_NO_FATAL_FAILURE(expect_same(options));
    }
  }
}

TEST_P(NarrowBitwise, Pipelines) {
  const Context context = context_of(isa(), "openmp");
  for (const Pipeline pipeline : kPipelines) ASSERT_NO_FATAL_FAILURE(expect_same(context, pipeline));
}

INSTANTIATE_TEST_SUITE_P(Isa, NarrowBitwise,
                         ::testing::Combine(::testing::Values(DataType::bf16, DataType::f16),
                                            ::testing::ValuesIn(swept_isas())),
                         [](const auto& param_info) {
                           return (std::get<0>(param_info.param) == DataType::bf16 ? "bf16_" : "f16_") +
                                  std::get<1>(param_info.param);
                         });

}  // namespace
}  // namespace kumiko::test
