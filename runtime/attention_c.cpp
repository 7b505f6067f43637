// SPDX-License-Identifier: Apache-2.0
// The C ABI: takes sized structs and returns kumiko::Status as a number and a message. It only converts.
#include "attention_c.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "runtime/convert_c.h"
#include "runtime/handles_c.h"
#include "runtime/validate_parts.h"

namespace {

using kumiko::Code;
using kumiko::Status;
using namespace kumiko::c_abi;

/// Contiguous strides for the order of dimensions in memory. Unsigned, so that wrapping is defined;
/// validation refuses such shapes.
template <class Tensor, class Pointer>
Tensor contiguous(Pointer data, std::int64_t batch, std::int64_t heads, std::int64_t seq, std::int64_t dim,
                  bool heads_outside) {
  Tensor tensor = KUMIKO_TENSOR_INIT;
  const auto product = [](std::int64_t a, std::int64_t b) {
    return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) * static_cast<std::uint64_t>(b));
  };
  tensor.data = data;
  const std::int64_t shape[4] = {batch, heads, seq, dim};
  const std::int64_t stride[4] = {product(product(heads, seq), dim), heads_outside ? product(seq, dim) : dim,
                                  heads_outside ? dim : product(heads, dim), 1};
  std::memcpy(tensor.shape, shape, sizeof(shape));
  std::memcpy(tensor.stride, stride, sizeof(stride));
  return tensor;
}

Status update_plan(kumiko_plan* plan, const int32_t* seqused_k, int64_t count, const int32_t* block_table,
                   const int32_t* kv_indptr) {
  if (plan == nullptr) return null_argument("plan", "a kumiko_plan");
  if (seqused_k == nullptr) return null_argument("seqused_k", "the lengths of the planned batch");
  if (count < 0) return kumiko::invalid("count", count, "0 or more");
  const std::span<const std::int32_t> lengths(seqused_k, static_cast<std::size_t>(count));
  if (Status s = plan->plan.update(lengths, block_table, kv_indptr); !s.ok()) return s;
  plan->explanation.clear();
  return {};
}

template <class View>
struct NamedTensor {
  const char* name;
  const View* given;
};

/// Copies keys from one layout to the other by `convert_pages`.
Status convert_key_pages(const kumiko_context* context, NamedTensor<kumiko_const_tensor> from,
                         NamedTensor<kumiko_tensor> to,
                         Status (*convert_pages)(const kumiko::Context&, const kumiko::ConstTensor&,
                                                 const kumiko::Tensor&)) {
  if (context == nullptr) return null_argument("context", "a kumiko_context");
  if (from.given == nullptr) return null_argument(from.name, "a kumiko_const_tensor");
  if (to.given == nullptr) return null_argument(to.name, "a kumiko_tensor");
  kumiko::ConstTensor source;
  kumiko::Tensor target;
  if (Status s = convert(*from.given, from.name, &source); !s.ok()) return s;
  if (Status s = convert(*to.given, to.name, &target); !s.ok()) return s;
  return convert_pages(context->context, source, target);
}

}  // namespace

const kumiko::Context& kumiko::c_abi::context_of(const kumiko_context& handle) {
  return handle.context;
}

extern "C" {

const char* kumiko_version(void) {
  return KUMIKO_VERSION;
}

const char* kumiko_status_name(kumiko_status status) {
  static constexpr const char* names[] = {
      "ok",       "invalid_argument", "unsupported", "out_of_memory", "invalid_environment",
      "internal", "queue_full",       "cancelled",   "communication"};
  if (status < 0 || status >= static_cast<kumiko_status>(std::size(names))) return "unknown";
  return names[status];
}

kumiko_tensor kumiko_tensor_bhsd(float* data, int64_t batch, int64_t heads, int64_t seq, int64_t dim) {
  return contiguous<kumiko_tensor>(data, batch, heads, seq, dim, true);
}
kumiko_tensor kumiko_tensor_bshd(float* data, int64_t batch, int64_t seq, int64_t heads, int64_t dim) {
  return contiguous<kumiko_tensor>(data, batch, heads, seq, dim, false);
}
kumiko_const_tensor kumiko_const_tensor_bhsd(const float* data, int64_t batch, int64_t heads, int64_t seq,
                                             int64_t dim) {
  return contiguous<kumiko_const_tensor>(data, batch, heads, seq, dim, true);
}
kumiko_const_tensor kumiko_const_tensor_bshd(const float* data, int64_t batch, int64_t seq, int64_t heads,
                                             int64_t dim) {
  return contiguous<kumiko_const_tensor>(data, batch, heads, seq, dim, false);
}

kumiko_status kumiko_context_create(const kumiko_context_options* options, kumiko_context** context) {
  return guarded([&]() -> Status {
    if (context == nullptr) return null_argument("context", "where to put the new handle");
    kumiko::ContextOptions converted;
    if (Status s = convert_options(options, &converted); !s.ok()) return s;
    auto handle = std::make_unique<kumiko_context>();
    if (Status s = kumiko::Context::create(converted, &handle->context); !s.ok()) return s;
    handle->description = handle->context.describe();
    *context = handle.release();
    return {};
  });
}

void kumiko_context_destroy(kumiko_context* context) {
  delete context;
}

kumiko_status kumiko_context_describe(const kumiko_context* context, const char** text) {
  return guarded([&]() -> Status {
    if (context == nullptr) return null_argument("context", "a kumiko_context");
    if (text == nullptr) return null_argument("text", "where to put the pointer to the text");
    *text = context->description.c_str();
    return {};
  });
}

kumiko_status kumiko_context_num_threads(const kumiko_context* context, int32_t* num_threads) {
  return guarded([&]() -> Status {
    if (context == nullptr) return null_argument("context", "a kumiko_context");
    if (num_threads == nullptr) return null_argument("num_threads", "where to put the number");
    *num_threads = context->context.num_threads();
    return {};
  });
}

kumiko_status kumiko_context_write_trace(const kumiko_context* context) {
  return guarded([&]() -> Status {
    if (context == nullptr) return null_argument("context", "a kumiko_context");
    return context->context.write_trace();
  });
}

kumiko_status kumiko_context_num_domains(const kumiko_context* context, int32_t* num_domains) {
  return guarded([&]() -> Status {
    if (context == nullptr) return null_argument("context", "a kumiko_context");
    if (num_domains == nullptr) return null_argument("num_domains", "where to put the number");
    *num_domains = context->context.num_domains();
    return {};
  });
}

kumiko_status kumiko_context_allocate(const kumiko_context* context, int32_t domain, int64_t bytes,
                                      void** data) {
  return guarded([&]() -> Status {
    if (context == nullptr) return null_argument("context", "a kumiko_context");
    if (data == nullptr) return null_argument("data", "where to put the address");
    kumiko::DomainMemory memory;
    if (Status s = context->context.allocate(domain, bytes, &memory); !s.ok()) return s;
    *data = memory.release();
    return {};
  });
}

void kumiko_free(void* data, int64_t bytes) {
  kumiko::DomainMemory::free(data, bytes);
}

kumiko_status kumiko_plan_create(const kumiko_context* context, const kumiko_attention_args* args,
                                 kumiko_plan** plan) {
  return guarded([&]() -> Status {
    if (context == nullptr) return null_argument("context", "a kumiko_context");
    if (plan == nullptr) return null_argument("plan", "where to put the new handle");
    kumiko::AttentionArgs converted;
    if (Status s = convert_args(args, &converted); !s.ok()) return s;
    auto handle = std::make_unique<kumiko_plan>();
    if (Status s = kumiko::plan(context->context, converted, &handle->plan); !s.ok()) return s;
    *plan = handle.release();
    return {};
  });
}

void kumiko_plan_destroy(kumiko_plan* plan) {
  delete plan;
}

kumiko_status kumiko_plan_run(const kumiko_plan* plan, const kumiko_attention_args* args) {
  return guarded([&]() -> Status {
    if (plan == nullptr) return null_argument("plan", "a kumiko_plan");
    kumiko::AttentionArgs converted;
    if (Status s = convert_args(args, &converted); !s.ok()) return s;
    return plan->plan.run(converted);
  });
}

kumiko_status kumiko_plan_update(kumiko_plan* plan, const int32_t* seqused_k, int64_t count) {
  return guarded([&] { return update_plan(plan, seqused_k, count, nullptr, nullptr); });
}

kumiko_status kumiko_plan_update_pages(kumiko_plan* plan, const int32_t* seqused_k, int64_t count,
                                       const int32_t* block_table, const int32_t* kv_indptr) {
  return guarded([&]() -> Status {
    if (block_table == nullptr) return null_argument("block_table", "a table of the planned shape");
    return update_plan(plan, seqused_k, count, block_table, kv_indptr);
  });
}

kumiko_status kumiko_plan_explain(const kumiko_plan* plan, const char** text) {
  return guarded([&]() -> Status {
    if (plan == nullptr) return null_argument("plan", "a kumiko_plan");
    if (text == nullptr) return null_argument("text", "where to put the pointer to the text");
    const std::lock_guard lock(plan->explaining);
    if (plan->explanation.empty()) plan->explanation = plan->plan.explain();
    *text = plan->explanation.c_str();
    return {};
  });
}

kumiko_status kumiko_plan_workspace_bytes(const kumiko_plan* plan, int64_t* bytes) {
  return guarded([&]() -> Status {
    if (plan == nullptr) return null_argument("plan", "a kumiko_plan");
    if (bytes == nullptr) return null_argument("bytes", "where to put the number");
    *bytes = plan->plan.workspace_bytes();
    return {};
  });
}

kumiko_status kumiko_plan_predict(const kumiko_plan* plan, const kumiko_machine_rates* rates, double* seconds,
                                  double* attainable_seconds) {
  return guarded([&]() -> Status {
    if (plan == nullptr) return null_argument("plan", "a kumiko_plan");
    if (rates == nullptr) return null_argument("rates", "a kumiko_machine_rates");
    if (seconds == nullptr) return null_argument("seconds", "where to put the number");
    const kumiko::Prediction said = plan->plan.predict({.core_flops = rates->core_flops,
                                                        .core_bandwidth = rates->core_bandwidth,
                                                        .domain_bandwidth = rates->domain_bandwidth,
                                                        .start_seconds = rates->start_seconds});
    *seconds = said.seconds;
    if (attainable_seconds != nullptr) *attainable_seconds = said.attainable_seconds;
    return {};
  });
}

kumiko_status kumiko_attention_forward(const kumiko_context* context, const kumiko_attention_args* args) {
  return guarded([&]() -> Status {
    if (context == nullptr) return null_argument("context", "a kumiko_context");
    kumiko::AttentionArgs converted;
    if (Status s = convert_args(args, &converted); !s.ok()) return s;
    return kumiko::attention_forward(context->context, converted);
  });
}

kumiko_status kumiko_attention_forward_default(const kumiko_attention_args* args) {
  return guarded([&]() -> Status {
    kumiko::AttentionArgs converted;
    if (Status s = convert_args(args, &converted); !s.ok()) return s;
    return kumiko::attention_forward(converted);
  });
}

kumiko_status kumiko_softmax_pv(const kumiko_context* context, const kumiko_softmax_pv_args* args) {
  return guarded([&]() -> Status {
    if (context == nullptr) return null_argument("context", "a kumiko_context");
    kumiko::SoftmaxPvArgs converted;
    if (Status s = convert_args(args, &converted); !s.ok()) return s;
    return kumiko::softmax_pv(context->context, converted);
  });
}

kumiko_status kumiko_fused_gemm(const kumiko_context* context, const kumiko_fused_gemm_args* args) {
  return guarded([&]() -> Status {
    if (context == nullptr) return null_argument("context", "a kumiko_context");
    kumiko::FusedGemmArgs converted;
    if (Status s = convert_args(args, &converted); !s.ok()) return s;
    return kumiko::fused_gemm(context->context, converted);
  });
}

kumiko_status kumiko_kv_append(const kumiko_context* context, const kumiko_kv_append_args* args) {
  return guarded([&]() -> Status {
    if (context == nullptr) return null_argument("context", "a kumiko_context");
    kumiko::KvAppendArgs converted;
    if (Status s = convert_args(args, &converted); !s.ok()) return s;
    return kumiko::kv_append(context->context, converted);
  });
}

kumiko_status kumiko_attention_backward(const kumiko_context* context, const kumiko_backward_args* args) {
  return guarded([&]() -> Status {
    if (context == nullptr) return null_argument("context", "a kumiko_context");
    kumiko::BackwardArgs converted;
    if (Status s = convert_args(args, &converted); !s.ok()) return s;
    return kumiko::attention_backward(context->context, converted);
  });
}

kumiko_status kumiko_backward_plan_create(const kumiko_context* context, const kumiko_backward_args* args,
                                          kumiko_backward_plan** plan) {
  return guarded([&]() -> Status {
    if (context == nullptr) return null_argument("context", "a kumiko_context");
    if (plan == nullptr) return null_argument("plan", "where to put the new handle");
    kumiko::BackwardArgs converted;
    if (Status s = convert_args(args, &converted); !s.ok()) return s;
    auto handle = std::make_unique<kumiko_backward_plan>();
    if (Status s = kumiko::plan_backward(context->context, converted, &handle->plan); !s.ok()) return s;
    *plan = handle.release();
    return {};
  });
}

void kumiko_backward_plan_destroy(kumiko_backward_plan* plan) {
  delete plan;
}

kumiko_status kumiko_backward_plan_run(const kumiko_backward_plan* plan, const kumiko_backward_args* args) {
  return guarded([&]() -> Status {
    if (plan == nullptr) return null_argument("plan", "a kumiko_backward_plan");
    kumiko::BackwardArgs converted;
    if (Status s = convert_args(args, &converted); !s.ok()) return s;
    return plan->plan.run(converted);
  });
}

kumiko_status kumiko_backward_plan_explain(const kumiko_backward_plan* plan, const char** text) {
  return guarded([&]() -> Status {
    if (plan == nullptr) return null_argument("plan", "a kumiko_backward_plan");
    if (text == nullptr) return null_argument("text", "where to put the pointer to the text");
    const std::lock_guard lock(plan->explaining);
    if (plan->explanation.empty()) plan->explanation = plan->plan.explain();
    *text = plan->explanation.c_str();
    return {};
  });
}

kumiko_status kumiko_backward_plan_workspace_bytes(const kumiko_backward_plan* plan, int64_t* bytes) {
  return guarded([&]() -> Status {
    if (plan == nullptr) return null_argument("plan", "a kumiko_backward_plan");
    if (bytes == nullptr) return null_argument("bytes", "where to put the number");
    *bytes = plan->plan.workspace_bytes();
    return {};
  });
}

kumiko_status kumiko_pack_key_pages(const kumiko_context* context, const kumiko_const_tensor* rows,
                                    const kumiko_tensor* tiles) {
  return guarded([&]() -> Status {
    return convert_key_pages(context, {"rows", rows}, {"tiles", tiles}, kumiko::pack_key_pages);
  });
}

kumiko_status kumiko_unpack_key_pages(const kumiko_context* context, const kumiko_const_tensor* tiles,
                                      const kumiko_tensor* rows) {
  return guarded([&]() -> Status {
    return convert_key_pages(context, {"tiles", tiles}, {"rows", rows}, kumiko::unpack_key_pages);
  });
}

kumiko_status kumiko_merge_states(const kumiko_context* context, const kumiko_attention_state* states,
                                  int64_t count, const kumiko_tensor* out, float* lse,
                                  const int64_t* lse_stride) {
  return guarded([&]() -> Status {
    if (context == nullptr) return null_argument("context", "a kumiko_context");
    if (states == nullptr) return null_argument("states", "an array of kumiko_attention_state");
    if (out == nullptr) return null_argument("out", "a kumiko_tensor");
    if (count < 1 || count > 65536) return bad_value("count", count, "1 to 65536");
    std::vector<kumiko::AttentionState> converted(static_cast<std::size_t>(count));
    for (std::size_t n = 0; n < converted.size(); ++n) {
      const std::string name = "states[" + std::to_string(n) + "].out";
      if (Status s = convert(states[n].out, name, &converted[n].out); !s.ok()) return s;
      converted[n].lse = states[n].lse;
      for (std::size_t i = 0; i < 3; ++i) converted[n].lse_stride[i] = states[n].lse_stride[i];
    }
    kumiko::Tensor converted_out;
    if (Status s = convert(*out, "out", &converted_out); !s.ok()) return s;
    kumiko::LseView view{lse, {}};
    for (std::size_t i = 0; lse_stride != nullptr && i < 3; ++i) view.stride[i] = lse_stride[i];
    return kumiko::merge_states(context->context, converted, converted_out, view);
  });
}

kumiko_status kumiko_quantize_rows(const kumiko_context* context, const kumiko_const_tensor* x,
                                   const kumiko_tensor* out, float* scale, const int64_t* scale_stride) {
  return guarded([&]() -> Status {
    if (context == nullptr) return null_argument("context", "a kumiko_context");
    if (x == nullptr) return null_argument("x", "a kumiko_const_tensor");
    if (out == nullptr) return null_argument("out", "a kumiko_tensor");
    kumiko::ConstTensor converted;
    kumiko::Tensor converted_out;
    if (Status s = convert(*x, "x", &converted); !s.ok()) return s;
    if (Status s = convert(*out, "out", &converted_out); !s.ok()) return s;
    kumiko::LseView view{scale, {}};
    for (std::size_t i = 0; scale_stride != nullptr && i < 3; ++i) view.stride[i] = scale_stride[i];
    return kumiko::quantize_rows(context->context, converted, converted_out, view);
  });
}

}  // extern "C"
