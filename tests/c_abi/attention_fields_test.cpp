// SPDX-License-Identifier: Apache-2.0
// Every field of attention's arguments, through both interfaces: forward, plan, explain and run.
#include "tests/c_abi/fields.h"

namespace kumiko::test {
namespace {

using AttentionFields = Fields<AttentionArgs, kumiko_attention_args>;

// The fields that Fields::add_tensor() has. If a tensor gets another field, this binding does not compile.
[[maybe_unused]] void each_tensor_has_these_fields() {
  { [[maybe_unused]] const auto& [data, dtype, reserved, shape, stride] = kumiko_tensor{}; }
  { [[maybe_unused]] const auto& [data, dtype, reserved, shape, stride] = kumiko_const_tensor{}; }
  { [[maybe_unused]] const auto& [data, shape, stride, dtype] = Tensor{}; }
}

// Two sequences of 4 query heads over 2 KV heads, 3 queries, 5 keys, gaps after every row, head and sequence.
template <class Args>
void place_operands(Args& a) {
  place(a.q, memory().q, {2, 4, 3, 8}, {200, 40, 9, 1});
  place(a.k, memory().k, {2, 2, 5, 8}, {150, 60, 10, 1});
  place(a.v, memory().v, {2, 2, 5, 6}, {120, 50, 8, 1});
  place(a.out, memory().out, {2, 4, 3, 6}, {160, 30, 7, 1});
}

// The array of row_max, in either struct, and its strides.
template <class Args>
auto& row_max_of(Args& a) {
  if constexpr (requires { a.row_max.data; })
    return a.row_max.data;
  else
    return a.row_max;
}
template <class Args>
std::int64_t* row_max_stride_of(Args& a) {
  if constexpr (requires { a.row_max.data; })
    return a.row_max.stride.data();
  else
    return a.row_max_stride;
}

// Scales of the queries or keys in either struct, and their strides.
template <class Scales>
auto& data_of(Scales& scales) {
  if constexpr (requires { scales.data; })
    return scales.data;
  else
    return scales;
}
template <class Args>
void set_scales(Args& a, bool of_keys, const float* data, const std::int64_t (&stride)[3]) {
  data_of(of_keys ? a.k_scale : a.q_scale) = data;
  if constexpr (requires { a.q_scale.data; })
    std::copy(stride, stride + 3, (of_keys ? a.k_scale : a.q_scale).stride.begin());
  else
    std::copy(stride, stride + 3, of_keys ? a.k_scale_stride : a.q_scale_stride);
}

const AttentionFields& attention_table() {
  static const AttentionFields fields = [] {
    AttentionFields f;
    const auto none = [](auto&) {};
    f.add_tensor(
        "q", KUMIKO_BF16, true, [](auto& a) -> auto& { return a.q; }, none);
    f.add_tensor(
        "k", KUMIKO_BF16, true, [](auto& a) -> auto& { return a.k; }, none);
    f.add_tensor(
        "v", KUMIKO_BF16, true, [](auto& a) -> auto& { return a.v; }, none);
    f.add_tensor(
        "out", KUMIKO_BF16, true, [](auto& a) -> auto& { return a.out; }, none);
    f.add("q.dtype and the others'", [](auto& a) {
      set(a.q.dtype, KUMIKO_BF16), set(a.k.dtype, KUMIKO_BF16), set(a.v.dtype, KUMIKO_BF16);
      set(a.out.dtype, KUMIKO_BF16);
    });
    f.add_lse();
    f.add_visibility();
    f.add("pipeline", [](auto& a) { set(a.pipeline, KUMIKO_PIPELINE_THREE_PASS); });
    f.add("softcap", [](auto& a) { a.softcap = 0.5f; });
    f.add_tensor(
        "bias", KUMIKO_F16, false, [](auto& a) -> auto& { return a.bias; },
        [](auto& a) {
          place(a.bias, memory().bias, {2, 4, 3, 5}, {80, 20, 6, 1});
        });
    const auto mask = [](auto& a) {
      place(a.mask, memory().mask, {2, 4, 3, 5}, {90, 22, 6, 1});
      set(a.mask.dtype, KUMIKO_BOOLEAN);
    };
    f.add_tensor(
        "mask", KUMIKO_F32, true, [](auto& a) -> auto& { return a.mask; }, mask);
    const auto slopes = [](auto& a) { a.alibi_slopes = static_cast<const float*>(memory().slopes.data()); };
    f.add("alibi_slopes", slopes);
    f.add(
        "alibi_batch_stride", [](auto& a) { a.alibi_batch_stride = 9; }, slopes);
    const auto sinks = [](auto& a) { a.sinks = static_cast<const float*>(memory().slopes.data()); };
    const auto sinks_and_lse = [sinks](auto& a) {
      sinks(a), lse_of(a) = static_cast<float*>(memory().lse.data());
    };
    f.add("sinks", sinks);
    f.add(
        "lse_with_sink", [](auto& a) { a.lse_with_sink = false; }, sinks_and_lse);
    f.add(
        "lse_base", [](auto& a) { set(a.lse_base, KUMIKO_LSE_BASE_2); }, sinks_and_lse);
    f.add(
        "window_sink_tokens", [](auto& a) { a.window_sink_tokens = 1; },
        [](auto& a) { a.window_left = 0, a.is_causal = true; });
    f.add("causal_sequences", [](auto& a) { a.causal_sequences = memory().causal; });
    f.add(
        "prefix_lens", [](auto& a) { a.prefix_lens = memory().lengths; },
        [](auto& a) { a.is_causal = true; });
    const auto tree = [](auto& a) { a.tree_mask = memory().tree; };
    f.add("tree_mask", tree);
    f.add(
        "tree_mask_stride", [](auto& a) { a.tree_mask_stride = 2; }, tree);
    const auto lists = [](auto& a) {
      a.bsr_indptr = memory().bsr_indptr, a.bsr_indices = memory().bsr_indices;
      a.bsr_rows = 2, a.bsr_keys = 2;
    };
    f.add(
        "bsr_indptr", [](auto& a) { a.bsr_indptr = memory().bsr_indptr + 1; }, lists);
    f.add(
        "bsr_indices", [](auto& a) { a.bsr_indices = memory().bsr_indices + 1; }, lists);
    f.add(
        "bsr_rows", [](auto& a) { a.bsr_rows = 3; }, lists);
    f.add(
        "bsr_keys", [](auto& a) { a.bsr_keys = 3; }, lists);
    f.add(
        "bsr_head_stride", [](auto& a) { a.bsr_head_stride = 5; }, lists);
    f.add("row_max", [](auto& a) { row_max_of(a) = static_cast<float*>(memory().row_max.data()); });
    for (std::size_t i = 0; i < 3; ++i)
      f.add(
          "row_max_stride[" + std::to_string(i) + "]", [i](auto& a) { ++row_max_stride_of(a)[i]; },
          [](auto& a) {
            constexpr std::int64_t kStride[3] = {40, 7, 2};
            row_max_of(a) = static_cast<float*>(memory().row_max.data());
            std::copy(kStride, kStride + 3, row_max_stride_of(a));
          });
    f.add_refused("key_layout", [](auto& a) { set(a.key_layout, KUMIKO_KEY_TILES_OF_16); });
    f.add("kv_domains", [](auto& a) { a.kv_domains = memory().homes; });
    // These do not go together with other rows' shapes.
    f.add_refused("cu_seqlens_q", [](auto& a) {
      a.q.shape[0] = a.out.shape[0] = 1;
      a.cu_seqlens_q = memory().cu_seqlens, a.num_sequences = 2;
    });
    f.add_refused("cu_seqlens_k", [](auto& a) {
      a.k.shape[0] = a.v.shape[0] = 1;
      a.cu_seqlens_k = memory().cu_seqlens;
    });
    f.add_refused("num_sequences", [](auto& a) { a.num_sequences = 1; });
    const auto paged = [](auto& a) {
      a.block_table = memory().table, a.max_pages = 1, a.seqused_k = memory().lengths;
    };
    f.add_refused("block_table", paged);
    f.add_refused("max_pages", [](auto& a) { a.max_pages = 3; });
    f.add_refused("block_table_stride", [paged](auto& a) { paged(a), a.block_table_stride = 2; });
    f.add_refused("kv_indptr", [paged](auto& a) { paged(a), a.kv_indptr = memory().cu_seqlens; });
    // With tensors of f32 there are no other kernels, and so an error that names them.
    f.add_refused("precision", [](auto& a) { set(a.precision, KUMIKO_PRECISION_HALF); });
    // With q and k of another type than other rows have.
    for (const bool of_keys : {false, true}) {
      const std::string name = of_keys ? "k_scale" : "q_scale";
      const auto add_scales = [&](const std::string& field, std::int64_t batch, std::int64_t head,
                                  std::int64_t seq) {
        f.add_refused(field, [=](auto& a) {
          set(a.q.dtype, KUMIKO_I8), set(a.k.dtype, KUMIKO_I8);
          const auto* const scales = static_cast<const float*>(memory().slopes.data());
          set_scales(a, false, scales, {20, 4, 1});
          set_scales(a, true, scales + 100, {20, 6, 1});
          set_scales(a, of_keys, scales + 50, {batch, head, seq});
        });
      };
      add_scales(name, 20, 6, 1);
      for (std::int64_t i = 0; i < 3; ++i)
        add_scales(name + "_stride[" + std::to_string(i) + "]", 20 + 9 * (i == 0), 6 + 2 * (i == 1),
                   1 + (i == 2));
    }
    f.add_c(
        "struct_size", [](auto& a) { a.struct_size = offsetof(kumiko_attention_args, lse); },
        [](auto& a) { a.is_causal = true; });
    return f;
  }();
  return fields;
}

// Two domains, so that kv_domains has an effect.
struct AttentionFieldsTest : testing::Test {
  Context cpp_context;
  kumiko_context* c_context = nullptr;
  AttentionArgs cpp;
  kumiko_attention_args c = KUMIKO_ATTENTION_ARGS_INIT;

  void SetUp() override {
    constexpr const char* kMachine = "numa:2 core:1 pu:1";
    ContextOptions options;
    options.executor = "serial";
    options.topology = kMachine;
    ASSERT_TRUE(Context::create(options, &cpp_context).ok());
    kumiko_context_options c_options = KUMIKO_CONTEXT_OPTIONS_INIT;
    c_options.executor = "serial";
    c_options.topology = kMachine;
    ASSERT_EQ(kumiko_context_create(&c_options, &c_context), KUMIKO_OK);
    place_operands(cpp);
    place_operands(c);
  }
  void TearDown() override { kumiko_context_destroy(c_context); }

  auto see_cpp() const {
    return [this](const AttentionArgs& a) {
      clear_outputs();
      Seen seen = seen_of(attention_forward(cpp_context, a));
      Plan plan;
      const Status planned = kumiko::plan(cpp_context, a, &plan);
      seen.text = planned.ok() ? plan.explain() : planned.message();
      if (planned.ok()) {
        clear_outputs();
        const Seen run = seen_of(plan.run(a));
        EXPECT_TRUE(run.message == seen.message && run.out == seen.out && run.lse == seen.lse &&
                    run.row_max == seen.row_max);
      }
      return seen;
    };
  }
  auto see_c() const {
    return [this](const kumiko_attention_args& a) {
      clear_outputs();
      Seen seen = seen_of(kumiko_attention_forward(c_context, &a));
      kumiko_plan* plan = nullptr;
      const char* text = nullptr;
      if (kumiko_plan_create(c_context, &a, &plan) != KUMIKO_OK) {
        seen.text = kumiko_last_error();
        return seen;
      }
      EXPECT_EQ(kumiko_plan_explain(plan, &text), KUMIKO_OK);
      seen.text = text;
      clear_outputs();
      const Seen run = seen_of(kumiko_plan_run(plan, &a));
      EXPECT_TRUE(run.message == seen.message && run.out == seen.out && run.lse == seen.lse &&
                  run.row_max == seen.row_max);
      kumiko_plan_destroy(plan);
      return seen;
    };
  }
};

TEST_F(AttentionFieldsTest, EachHasARow) {
  expect_a_row_for_each(names_of<kumiko_attention_args>(), attention_table());
  expect_a_row_for_each(names_of<AttentionArgs>(), attention_table());
}

TEST_F(AttentionFieldsTest, EachCountsInC) {
  expect_each_field_counts(attention_table(), cpp, c, see_cpp(), see_c());
}

TEST_F(AttentionFieldsTest, AllTogetherGiveTheSameBits) {
  expect_all_fields_together(attention_table(), cpp, c, see_cpp(), see_c());
}

TEST_F(AttentionFieldsTest, BothTimesOfAPredictionAreThoseOfCpp) {
  Plan plan;
  ASSERT_TRUE(kumiko::plan(cpp_context, cpp, &plan).ok());
  kumiko_plan* c_plan = nullptr;
  ASSERT_EQ(kumiko_plan_create(c_context, &c, &c_plan), KUMIKO_OK) << kumiko_last_error();
  const Prediction want = plan.predict(
      {.core_flops = 1e9, .core_bandwidth = 2e9, .domain_bandwidth = 3e9, .start_seconds = 1e-3});
  EXPECT_GT(want.seconds, want.attainable_seconds);
  const kumiko_machine_rates rates = {1e9, 2e9, 3e9, 1e-3};
  double seconds = 0, attainable = 0;
  EXPECT_EQ(kumiko_plan_predict(c_plan, &rates, &seconds, &attainable), KUMIKO_OK);
  EXPECT_EQ(seconds, want.seconds);
  EXPECT_EQ(attainable, want.attainable_seconds);
  kumiko_plan_destroy(c_plan);
}

}  // namespace
}  // namespace kumiko::test
