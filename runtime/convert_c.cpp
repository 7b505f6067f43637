// SPDX-License-Identifier: Apache-2.0
#include "runtime/convert_c.h"

#include <cstddef>
#include <cstring>
#include <type_traits>

#include "runtime/attention_fields.h"

namespace kumiko::c_abi {

static_assert(KUMIKO_OK == static_cast<int>(Code::ok));
static_assert(KUMIKO_INVALID_ARGUMENT == static_cast<int>(Code::invalid_argument));
static_assert(KUMIKO_UNSUPPORTED == static_cast<int>(Code::unsupported));
static_assert(KUMIKO_OUT_OF_MEMORY == static_cast<int>(Code::out_of_memory));
static_assert(KUMIKO_INVALID_ENVIRONMENT == static_cast<int>(Code::invalid_environment));
static_assert(KUMIKO_INTERNAL == static_cast<int>(Code::internal));
static_assert(KUMIKO_QUEUE_FULL == static_cast<int>(Code::queue_full));
static_assert(KUMIKO_CANCELLED == static_cast<int>(Code::cancelled));
static_assert(KUMIKO_COMMUNICATION == static_cast<int>(Code::communication));
static_assert(KUMIKO_F32 == static_cast<int>(DataType::f32));
static_assert(KUMIKO_BF16 == static_cast<int>(DataType::bf16));
static_assert(KUMIKO_BOOLEAN == static_cast<int>(DataType::boolean));
static_assert(KUMIKO_F16 == static_cast<int>(DataType::f16));
static_assert(KUMIKO_BOTTOM_RIGHT == static_cast<int>(CausalAlignment::bottom_right));
static_assert(KUMIKO_TOP_LEFT == static_cast<int>(CausalAlignment::top_left));
static_assert(KUMIKO_LSE_NATURAL == static_cast<int>(LseBase::natural));
static_assert(KUMIKO_LSE_BASE_2 == static_cast<int>(LseBase::two));
static_assert(KUMIKO_KEY_ROWS == static_cast<int>(KeyLayout::rows));
static_assert(KUMIKO_KEY_TILES_OF_16 == static_cast<int>(KeyLayout::tiles_of_16));
static_assert(KUMIKO_PIPELINE_AUTOMATIC == static_cast<int>(Pipeline::automatic));
static_assert(KUMIKO_PIPELINE_ONLINE == static_cast<int>(Pipeline::online));
static_assert(KUMIKO_PIPELINE_DECODE == static_cast<int>(Pipeline::decode));
static_assert(KUMIKO_PIPELINE_TWO_PASS == static_cast<int>(Pipeline::two_pass));
static_assert(KUMIKO_PIPELINE_INTERLEAVED == static_cast<int>(Pipeline::interleaved));
static_assert(KUMIKO_PIPELINE_THREE_PASS == static_cast<int>(Pipeline::three_pass));
static_assert(KUMIKO_PRECISION_AUTOMATIC == static_cast<int>(Precision::automatic));
static_assert(KUMIKO_PRECISION_STANDARD == static_cast<int>(Precision::standard));
static_assert(KUMIKO_PRECISION_HALF == static_cast<int>(Precision::half));
static_assert(KUMIKO_PRECISION_INT8 == static_cast<int>(Precision::int8));
static_assert(KUMIKO_I32 == static_cast<int>(DataType::i32));
static_assert(KUMIKO_I8 == static_cast<int>(DataType::i8));
static_assert(sizeof(kumiko_attention_state) == sizeof(kumiko_tensor) + sizeof(void*) + 3 * 8);
// No padding: otherwise a later field could take bytes that an older caller leaves uninitialised. The sums
// hold on LP64.
static_assert(sizeof(kumiko_tensor) == sizeof(void*) + 2 * 4 + 8 * 8);
static_assert(sizeof(kumiko_const_tensor) == sizeof(kumiko_tensor));
static_assert(sizeof(kumiko_context_options) == sizeof(std::size_t) + 2 * 4 + 8 * sizeof(void*));
static_assert(sizeof(kumiko_stream_options) == sizeof(std::size_t) + 8);

template <class Args>
constexpr std::size_t bytes_of_fields() {
  std::size_t bytes = 0;
  for_each_field<Args>([&](const char*, std::size_t size) { bytes += size; });
  return bytes;
}
// No padding here either, and no field that convert_args() leaves out.
static_assert(sizeof(kumiko_attention_args) == bytes_of_fields<kumiko_attention_args>());
static_assert(sizeof(kumiko_softmax_pv_args) == bytes_of_fields<kumiko_softmax_pv_args>());
static_assert(sizeof(kumiko_fused_gemm_args) == bytes_of_fields<kumiko_fused_gemm_args>());

// The same for kv_append, whose fields are in a table of their own.
constexpr std::size_t bytes_of_kv_append_fields() {
  std::size_t bytes = sizeof(std::size_t);  // struct_size
#define KUMIKO_KV_APPEND_FIELD(name) bytes += sizeof(kumiko_kv_append_args::name);
#include "runtime/kv_append_fields.inc"
#undef KUMIKO_KV_APPEND_FIELD
  return bytes;
}
constexpr int count_kv_append_fields() {
  int count = 0;
#define KUMIKO_KV_APPEND_FIELD(name) ++count;
#include "runtime/kv_append_fields.inc"
#undef KUMIKO_KV_APPEND_FIELD
  return count;
}
static_assert(sizeof(kumiko_kv_append_args) == bytes_of_kv_append_fields());
static_assert(count_fields<KvAppendArgs>() == count_kv_append_fields(),
              "a field of KvAppendArgs has no row in kv_append_fields.inc");
// The same for attention_backward; the strides of dlse and delta are fields of C alone.
constexpr std::size_t bytes_of_backward_fields() {
  std::size_t bytes = sizeof(std::size_t) + sizeof(kumiko_backward_args::dlse_stride) +
                      sizeof(kumiko_backward_args::delta_stride);
#define KUMIKO_BACKWARD_FIELD(name) bytes += sizeof(decltype(kumiko_backward_args::name));
#include "runtime/attention_backward_fields.inc"
#undef KUMIKO_BACKWARD_FIELD
  return bytes;
}
constexpr int count_backward_fields() {
  int count = 0;
#define KUMIKO_BACKWARD_FIELD(name) ++count;
#include "runtime/attention_backward_fields.inc"
#undef KUMIKO_BACKWARD_FIELD
  return count;
}
static_assert(sizeof(kumiko_backward_args) == bytes_of_backward_fields());
static_assert(count_fields<BackwardArgs>() == count_backward_fields(),
              "a field of BackwardArgs has no row in attention_backward_fields.inc");
static_assert(KUMIKO_ROPE_NEOX == static_cast<int>(RopeStyle::neox));
static_assert(KUMIKO_ROPE_INTERLEAVED == static_cast<int>(RopeStyle::interleaved));

Status null_argument(const char* name, const char* expected) {
  return {Code::invalid_argument, std::string(name) + " is NULL; expected " + expected};
}

Status bad_value(const std::string& name, std::int64_t value, const char* expected) {
  return {Code::invalid_argument, name + " is " + std::to_string(value) + "; expected " + expected};
}

namespace {

/// Copies a struct that may be older (shorter) or newer (longer) than ours over the defaults in `*known`.
/// `smallest`: the least struct_size that is accepted.
template <class Struct>
Status read_sized(const Struct* given, const std::string& name, const char* type, std::size_t smallest,
                  Struct* known) {
  static_assert(std::is_trivially_copyable_v<Struct> && offsetof(Struct, struct_size) == 0);
  // Guards against an uninitialised struct_size; real structs are far smaller.
  constexpr std::size_t largest = 4096;
  std::size_t size = 0;
  std::memcpy(&size, given, sizeof(size));
  if (size < smallest || size > largest || size % alignof(Struct) != 0) {
    return {Code::invalid_argument, name + "->struct_size is " + std::to_string(size) + "; expected sizeof(" +
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
Status convert_any(const Tensor& from, const std::string& name, View* to) {
  if (from.dtype < KUMIKO_F32 || from.dtype > KUMIKO_I8)
    return bad_value(name + ".dtype", from.dtype,
                     "KUMIKO_F32 (0), KUMIKO_BF16 (1), KUMIKO_F16 (2), for a mask KUMIKO_BOOLEAN (3), for "
                     "precomputed scores KUMIKO_I32 (4), or for queries and keys KUMIKO_I8 (5)");
  if (from.reserved != 0) return bad_value(name + ".reserved", from.reserved, "0");
  to->data = from.data;
  to->dtype = static_cast<DataType>(from.dtype);
  for (std::size_t i = 0; i < 4; ++i) {
    to->shape[i] = from.shape[i];
    to->stride[i] = from.stride[i];
  }
  return {};
}

}  // namespace

Status convert(const kumiko_const_tensor& from, const std::string& name, ConstTensor* to) {
  return convert_any(from, name, to);
}
Status convert(const kumiko_tensor& from, const std::string& name, Tensor* to) {
  return convert_any(from, name, to);
}

namespace {

// Converts the other fields of the C structs; one overload per type.
Status convert(std::int32_t from, const char* name, bool* to) {
  if (from != 0 && from != 1) return bad_value(name, from, "0 or 1");
  *to = from == 1;
  return {};
}
Status convert(std::int32_t from, const char* name, CausalAlignment* to) {
  if (from < KUMIKO_BOTTOM_RIGHT || from > KUMIKO_TOP_LEFT)
    return bad_value(name, from, "KUMIKO_BOTTOM_RIGHT (0) or KUMIKO_TOP_LEFT (1)");
  *to = static_cast<CausalAlignment>(from);
  return {};
}
Status convert(std::int32_t from, const char* name, Pipeline* to) {
  if (from < KUMIKO_PIPELINE_AUTOMATIC || from > KUMIKO_PIPELINE_THREE_PASS)
    return bad_value(name, from, "a KUMIKO_PIPELINE_ value, 0 to 5");
  *to = static_cast<Pipeline>(from);
  return {};
}
Status convert(std::int32_t from, const char* name, LseBase* to) {
  if (from < KUMIKO_LSE_NATURAL || from > KUMIKO_LSE_BASE_2)
    return bad_value(name, from, "KUMIKO_LSE_NATURAL (0) or KUMIKO_LSE_BASE_2 (1)");
  *to = static_cast<LseBase>(from);
  return {};
}
Status convert(std::int32_t from, const char* name, Precision* to) {
  if (from < KUMIKO_PRECISION_AUTOMATIC || from > KUMIKO_PRECISION_INT8)
    return bad_value(name, from, "a KUMIKO_PRECISION_ value, 0 to 3");
  *to = static_cast<Precision>(from);
  return {};
}
Status convert(std::int32_t from, const char* name, RopeStyle* to) {
  if (from < KUMIKO_ROPE_NEOX || from > KUMIKO_ROPE_INTERLEAVED)
    return bad_value(name, from, "KUMIKO_ROPE_NEOX (0) or KUMIKO_ROPE_INTERLEAVED (1)");
  *to = static_cast<RopeStyle>(from);
  return {};
}
Status convert(std::int64_t from, const char* name, KeyLayout* to) {
  if (from < KUMIKO_KEY_ROWS || from > KUMIKO_KEY_TILES_OF_16)
    return bad_value(name, from, "KUMIKO_KEY_ROWS (0) or KUMIKO_KEY_TILES_OF_16 (1)");
  *to = static_cast<KeyLayout>(from);
  return {};
}
Status convert(float* from, const char*, LseView* to) {  // the strides are a separate field
  to->data = from;
  return {};
}
Status convert(const float* from, const char*, ScaleView* to) {  // the same
  to->data = from;
  return {};
}
template <class Same>
Status convert(const Same& from, const char*, Same* to) {
  *to = from;
  return {};
}

}  // namespace

/// Converts the fields of the table that the structs have, and the fields that only C has. A field that one
/// struct lacks does not compile.
template <class From, class To>
static Status convert_fields(const From& from, To* to) {
#define KUMIKO_ATTENTION_FIELD(name, plan)                                  \
  if constexpr (                                                            \
      requires { from.name; } || requires { to->name; }) {                  \
    if (Status s = convert(from.name, #name, &to->name); !s.ok()) return s; \
  }
#include "runtime/attention_fields.inc"
#undef KUMIKO_ATTENTION_FIELD
  if constexpr (requires { to->lse; }) {
    for (std::size_t i = 0; i < 3; ++i) to->lse.stride[i] = from.lse_stride[i];
  }
  if constexpr (requires { to->row_max; }) {
    for (std::size_t i = 0; i < 3; ++i) to->row_max.stride[i] = from.row_max_stride[i];
  }
  if constexpr (requires { to->q_scale; }) {
    for (std::size_t i = 0; i < 3; ++i) {
      to->q_scale.stride[i] = from.q_scale_stride[i];
      to->k_scale.stride[i] = from.k_scale_stride[i];
    }
  }
  if constexpr (requires { from.reserved; }) {
    if (from.reserved != 0) return bad_value("reserved", from.reserved, "0");
  }
  return {};
}

Status convert_attention(const kumiko_attention_args* given, const char* name, const char* of,
                         AttentionArgs* to) {
  if (given == nullptr) return null_argument(name, "a kumiko_attention_args");
  kumiko_attention_args from = KUMIKO_ATTENTION_ARGS_INIT;
  if (Status s =
          read_sized(given, name, "kumiko_attention_args", offsetof(kumiko_attention_args, lse), &from);
      !s.ok())
    return s;
  if (Status s = convert_fields(from, to); !s.ok()) return {s.code(), of + s.message()};
  return {};
}

Status convert_args(const kumiko_attention_args* given, AttentionArgs* to) {
  return convert_attention(given, "args", "", to);
}

Status convert_args(const kumiko_softmax_pv_args* given, SoftmaxPvArgs* to) {
  if (given == nullptr) return null_argument("args", "a kumiko_softmax_pv_args");
  kumiko_softmax_pv_args from = KUMIKO_SOFTMAX_PV_ARGS_INIT;
  if (Status s =
          read_sized(given, "args", "kumiko_softmax_pv_args", offsetof(kumiko_softmax_pv_args, lse), &from);
      !s.ok())
    return s;
  if (Status s = convert(from.scores, "scores", &to->scores); !s.ok()) return s;
  return convert_fields(from, to);
}

Status convert_args(const kumiko_fused_gemm_args* given, FusedGemmArgs* to) {
  if (given == nullptr) return null_argument("args", "a kumiko_fused_gemm_args");
  kumiko_fused_gemm_args from = KUMIKO_FUSED_GEMM_ARGS_INIT;
  if (Status s =
          read_sized(given, "args", "kumiko_fused_gemm_args", offsetof(kumiko_fused_gemm_args, scale), &from);
      !s.ok())
    return s;
  return convert_fields(from, to);
}

Status convert_args(const kumiko_kv_append_args* given, KvAppendArgs* to) {
  if (given == nullptr) return null_argument("args", "a kumiko_kv_append_args");
  kumiko_kv_append_args from = KUMIKO_KV_APPEND_ARGS_INIT;
  if (Status s =
          read_sized(given, "args", "kumiko_kv_append_args", offsetof(kumiko_kv_append_args, query), &from);
      !s.ok())
    return s;
#define KUMIKO_KV_APPEND_FIELD(name) \
  if (Status s = convert(from.name, #name, &to->name); !s.ok()) return s;
#include "runtime/kv_append_fields.inc"
#undef KUMIKO_KV_APPEND_FIELD
  return {};
}

static Status convert(const kumiko_attention_args* from, const char* name, AttentionArgs* to) {
  return convert_attention(from, name, "forward.", to);
}

Status convert_args(const kumiko_backward_args* given, BackwardArgs* to) {
  if (given == nullptr) return null_argument("args", "a kumiko_backward_args");
  kumiko_backward_args from = KUMIKO_BACKWARD_ARGS_INIT;
  if (Status s =
          read_sized(given, "args", "kumiko_backward_args", offsetof(kumiko_backward_args, dlse), &from);
      !s.ok())
    return s;
#define KUMIKO_BACKWARD_FIELD(name) \
  if (Status s = convert(from.name, #name, &to->name); !s.ok()) return s;
#include "runtime/attention_backward_fields.inc"
#undef KUMIKO_BACKWARD_FIELD
  for (std::size_t i = 0; i < 3; ++i) to->dlse.stride[i] = from.dlse_stride[i];
  for (std::size_t i = 0; i < 3; ++i) to->delta.stride[i] = from.delta_stride[i];
  return {};
}

Status convert_options(const kumiko_context_options* given, ContextOptions* to) {
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
  to->trace = text(from.trace);
  to->tuning = text(from.tuning);
  return {};
}

Status convert_options(const kumiko_stream_options* given, StreamOptions* to) {
  if (given == nullptr) return {};
  kumiko_stream_options from = KUMIKO_STREAM_OPTIONS_INIT;
  if (Status s = read_sized(given, "options", "kumiko_stream_options",
                            offsetof(kumiko_stream_options, capacity), &from);
      !s.ok())
    return s;
  to->capacity = from.capacity;
  return {};
}

}  // namespace kumiko::c_abi
