// The C ABI: sized structs in, kumiko::Status out as a number and a sentence. No logic of attention lives
// here.
#include "attention_c.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <iterator>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "attention.h"

struct kumiko_context {
  kumiko::Context context;
  std::string description;
};

struct kumiko_plan {
  kumiko::Plan plan;
  mutable std::once_flag explained;
  mutable std::string explanation;
};

namespace {

using kumiko::Code;
using kumiko::Status;

static_assert(KUMIKO_OK == static_cast<int>(Code::ok));
static_assert(KUMIKO_INVALID_ARGUMENT == static_cast<int>(Code::invalid_argument));
static_assert(KUMIKO_UNSUPPORTED == static_cast<int>(Code::unsupported));
static_assert(KUMIKO_OUT_OF_MEMORY == static_cast<int>(Code::out_of_memory));
static_assert(KUMIKO_INVALID_ENVIRONMENT == static_cast<int>(Code::invalid_environment));
static_assert(KUMIKO_INTERNAL == static_cast<int>(Code::internal));
static_assert(KUMIKO_F32 == static_cast<int>(kumiko::DataType::f32));
static_assert(KUMIKO_BF16 == static_cast<int>(kumiko::DataType::bf16));
static_assert(KUMIKO_BOOLEAN == static_cast<int>(kumiko::DataType::boolean));
static_assert(KUMIKO_F16 == static_cast<int>(kumiko::DataType::f16));
static_assert(KUMIKO_BOTTOM_RIGHT == static_cast<int>(kumiko::CausalAlignment::bottom_right));
static_assert(KUMIKO_TOP_LEFT == static_cast<int>(kumiko::CausalAlignment::top_left));
static_assert(KUMIKO_PIPELINE_AUTOMATIC == static_cast<int>(kumiko::Pipeline::automatic));
static_assert(KUMIKO_PIPELINE_ONLINE == static_cast<int>(kumiko::Pipeline::online));
static_assert(KUMIKO_PIPELINE_DECODE == static_cast<int>(kumiko::Pipeline::decode));
static_assert(sizeof(kumiko_attention_state) == sizeof(kumiko_tensor) + sizeof(void*) + 3 * 8);
// No padding: a field added later can never land on bytes that an older caller left uninitialised. The sums
// hold on LP64.
static_assert(sizeof(kumiko_tensor) == sizeof(void*) + 2 * 4 + 8 * 8);
static_assert(sizeof(kumiko_const_tensor) == sizeof(kumiko_tensor));
static_assert(sizeof(kumiko_context_options) == sizeof(std::size_t) + 2 * 4 + 6 * sizeof(void*));
static_assert(sizeof(kumiko_attention_args) ==
              sizeof(std::size_t) + 6 * sizeof(kumiko_tensor) + 3 * sizeof(void*) + 3 * 8 + 6 * 4 + 3 * 8);

/// Fixed, so that saying "out of memory" needs none; the longest message of the library is well below it.
thread_local std::array<char, 1024> last_error{};

kumiko_status report(Code code, const char* message) noexcept {
  std::snprintf(last_error.data(), last_error.size(), "%s", message);
  return static_cast<kumiko_status>(code);
}

/// Runs `body` (-> Status) and turns whatever comes out of it into a status and this thread's last error.
template <class Body>
kumiko_status guarded(Body&& body) noexcept {
  try {
    const Status status = body();
    return report(status.code(), status.message().c_str());
  } catch (const std::bad_alloc&) {
    return report(Code::out_of_memory, "memory is short");
  } catch (const std::exception& exception) {
    return report(Code::internal, exception.what());
  } catch (...) {
    return report(Code::internal, "an unknown exception reached the C ABI");
  }
}

Status null_argument(const char* name, const char* expected) {
  return {Code::invalid_argument, std::string(name) + " is NULL, expected " + expected};
}

Status bad_value(const std::string& name, std::int64_t value, const char* expected) {
  return {Code::invalid_argument, name + " is " + std::to_string(value) + ", expected " + expected};
}

/// Copies a struct that may be older (shorter) or newer (longer) than ours over the defaults in `*known`.
/// `smallest`: the end of the fields that the first release had no defaults for.
template <class Struct>
Status read_sized(const Struct* given, const std::string& name, const char* type, std::size_t smallest,
                  Struct* known) {
  static_assert(std::is_trivially_copyable_v<Struct> && offsetof(Struct, struct_size) == 0);
  // Guards against an uninitialised struct_size; no release comes near it.
  constexpr std::size_t largest = 4096;
  std::size_t size = 0;
  std::memcpy(&size, given, sizeof(size));
  if (size < smallest || size > largest || size % alignof(Struct) != 0) {
    return {Code::invalid_argument, name + "->struct_size is " + std::to_string(size) + ", expected sizeof(" +
                                        type + "), " + std::to_string(sizeof(Struct)) +
                                        " in this release; start from the _INIT macro"};
  }
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  for (std::size_t i = sizeof(Struct); i < size; ++i) {
    if (bytes[i] != 0) {
      return {Code::unsupported, name + " sets a field at byte " + std::to_string(i) + " that kumiko " +
                                     KUMIKO_VERSION + " does not know (its struct has " +
                                     std::to_string(sizeof(Struct)) + " bytes)"};
    }
  }
  std::memcpy(known, given, size < sizeof(Struct) ? size : sizeof(Struct));
  return {};
}

template <class View, class Tensor>
Status convert_tensor(const Tensor& from, const std::string& name, View* to) {
  if (from.dtype < KUMIKO_F32 || from.dtype > KUMIKO_BOOLEAN)
    return bad_value(name + ".dtype", from.dtype,
                     "KUMIKO_F32 (0), KUMIKO_BF16 (1), KUMIKO_F16 (2) or, for a mask, KUMIKO_BOOLEAN (3)");
  if (from.reserved != 0) return bad_value(name + ".reserved", from.reserved, "0");
  to->data = from.data;
  to->dtype = static_cast<kumiko::DataType>(from.dtype);
  for (std::size_t i = 0; i < 4; ++i) {
    to->shape[i] = from.shape[i];
    to->stride[i] = from.stride[i];
  }
  return {};
}

Status convert_args(const kumiko_attention_args* given, kumiko::AttentionArgs* to) {
  if (given == nullptr) return null_argument("args", "a kumiko_attention_args");
  kumiko_attention_args from = KUMIKO_ATTENTION_ARGS_INIT;
  if (Status s =
          read_sized(given, "args", "kumiko_attention_args", offsetof(kumiko_attention_args, lse), &from);
      !s.ok())
    return s;
  if (Status s = convert_tensor(from.q, "q", &to->q); !s.ok()) return s;
  if (Status s = convert_tensor(from.k, "k", &to->k); !s.ok()) return s;
  if (Status s = convert_tensor(from.v, "v", &to->v); !s.ok()) return s;
  if (Status s = convert_tensor(from.out, "out", &to->out); !s.ok()) return s;
  if (from.is_causal != 0 && from.is_causal != 1) return bad_value("is_causal", from.is_causal, "0 or 1");
  if (from.causal_alignment < KUMIKO_BOTTOM_RIGHT || from.causal_alignment > KUMIKO_TOP_LEFT) {
    return bad_value("causal_alignment", from.causal_alignment,
                     "KUMIKO_BOTTOM_RIGHT (0) or KUMIKO_TOP_LEFT (1)");
  }
  if (from.pipeline < KUMIKO_PIPELINE_AUTOMATIC || from.pipeline > KUMIKO_PIPELINE_DECODE) {
    return bad_value("pipeline", from.pipeline, "a KUMIKO_PIPELINE_ value, 0 to 2");
  }
  to->lse.data = from.lse;
  for (std::size_t i = 0; i < 3; ++i) to->lse.stride[i] = from.lse_stride[i];
  to->scale = from.scale;
  to->is_causal = from.is_causal == 1;
  to->causal_alignment = static_cast<kumiko::CausalAlignment>(from.causal_alignment);
  to->pipeline = static_cast<kumiko::Pipeline>(from.pipeline);
  to->window_left = from.window_left;
  to->window_right = from.window_right;
  to->seqused_k = from.seqused_k;
  to->softcap = from.softcap;
  if (from.reserved != 0) return bad_value("reserved", from.reserved, "0");
  if (Status s = convert_tensor(from.bias, "bias", &to->bias); !s.ok()) return s;
  if (Status s = convert_tensor(from.mask, "mask", &to->mask); !s.ok()) return s;
  to->alibi_slopes = from.alibi_slopes;
  to->alibi_batch_stride = from.alibi_batch_stride;
  return {};
}

Status convert_options(const kumiko_context_options* given, kumiko::ContextOptions* to) {
  if (given == nullptr) return {};
  kumiko_context_options from = KUMIKO_CONTEXT_OPTIONS_INIT;
  if (Status s = read_sized(given, "options", "kumiko_context_options",
                            offsetof(kumiko_context_options, cpus), &from);
      !s.ok())
    return s;
  if (from.reserved != 0) return bad_value("options->reserved", from.reserved, "0");
  const auto text = [](const char* value) { return std::string(value == nullptr ? "" : value); };
  to->num_threads = from.num_threads;
  to->cpus = text(from.cpus);
  to->bind = text(from.bind);
  to->executor = text(from.executor);
  to->isa = text(from.isa);
  to->topology = text(from.topology);
  to->policy = text(from.policy);
  return {};
}

/// Contiguous strides for the order of dimensions in memory; unsigned, since validation, not this, judges
/// absurd shapes.
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

}  // namespace

extern "C" {

const char* kumiko_version(void) {
  return KUMIKO_VERSION;
}

const char* kumiko_last_error(void) {
  return last_error.data();
}

const char* kumiko_status_name(kumiko_status status) {
  static constexpr const char* names[] = {
      "ok", "invalid_argument", "unsupported", "out_of_memory", "invalid_environment", "internal"};
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

kumiko_status kumiko_plan_explain(const kumiko_plan* plan, const char** text) {
  return guarded([&]() -> Status {
    if (plan == nullptr) return null_argument("plan", "a kumiko_plan");
    if (text == nullptr) return null_argument("text", "where to put the pointer to the text");
    std::call_once(plan->explained, [plan] { plan->explanation = plan->plan.explain(); });
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
      if (Status s = convert_tensor(states[n].out, name, &converted[n].out); !s.ok()) return s;
      converted[n].lse = states[n].lse;
      for (std::size_t i = 0; i < 3; ++i) converted[n].lse_stride[i] = states[n].lse_stride[i];
    }
    kumiko::Tensor converted_out;
    if (Status s = convert_tensor(*out, "out", &converted_out); !s.ok()) return s;
    kumiko::LseView view{lse, {}};
    for (std::size_t i = 0; lse_stride != nullptr && i < 3; ++i) view.stride[i] = lse_stride[i];
    return kumiko::merge_states(context->context, converted, converted_out, view);
  });
}

}  // extern "C"
