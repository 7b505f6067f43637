// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/context_fuzz.h"

#include <kumiko/attention_backward_c.h>
#include <kumiko/kv_append_c.h>
#include <kumiko/stream_c.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <regex>
#include <string>

#include "tests/fuzz/attention_problem.h"
#include "tests/fuzz/checks.h"
#include "tests/fuzz/failing_new.h"
#include "tests/fuzz/merge_problem.h"
#include "tests/fuzz/products_problem.h"

namespace kumiko::fuzz {
namespace {

// A synthetic machine's size, and the number of threads of its context, is the product of the numbers.
bool is_small_machine(const std::string& description) {
  double product = 1;
  static const std::regex number("[0-9]+");
  for (auto it = std::sregex_iterator(description.begin(), description.end(), number);
       it != std::sregex_iterator(); ++it)
    product *= std::max(1.0, std::atof(it->str().c_str()));
  return product <= 8;
}

void fuzz_allocation(Input& input, const kumiko_context* context) {
  std::int32_t num_domains = 0;
  checked(kumiko_context_num_domains(context, &num_domains), "num_domains");
  const auto domain =
      static_cast<std::int32_t>(input.one_in(4) ? input.number() : input.below(num_domains + 1) - 1);
  std::int64_t bytes = input.one_in(2) ? input.number() : input.byte() * 37;
  const bool is_absurd = bytes >= std::int64_t{1} << 48;  // more than the address space
  if (!is_absurd && bytes > 1 << 20) bytes %= 1 << 20;
  if (domain == KUMIKO_EACH_DOMAIN && bytes > 0 && !is_absurd && input.one_in(2))
    bytes = bytes / 4096 * 4096 * num_domains;
  const bool has_parts = domain == KUMIKO_EACH_DOMAIN && num_domains > 1;
  const bool is_sane = domain >= KUMIKO_EACH_DOMAIN && domain < num_domains && bytes >= 1 &&
                       !(has_parts && bytes % (std::int64_t{4096} * num_domains) != 0);
  void* data = nullptr;
  const kumiko_status status = kumiko_context_allocate(context, domain, bytes, &data);
  if (!(is_sane && is_absurd)) checked(status, "context_allocate");
  require((data != nullptr) == (status == KUMIKO_OK), "an error leaves the output parameter alone",
          "context_allocate");
  require(status == (!is_sane    ? KUMIKO_INVALID_ARGUMENT
                     : is_absurd ? KUMIKO_OUT_OF_MEMORY
                                 : KUMIKO_OK),
          "a sound request is granted, and no other", "context_allocate");
  if (!data) return;
  auto* const memory = static_cast<unsigned char*>(data);
  require(reinterpret_cast<std::uintptr_t>(data) % 4096 == 0, "memory starts on a page of its own");
  require(std::all_of(memory, memory + bytes, [](unsigned char byte) { return byte == 0; }),
          "memory is zeroed");
  std::memset(memory, 0xa5, static_cast<std::size_t>(bytes));
  kumiko_free(data, bytes);
}

}  // namespace

kumiko_context* make_any_context(Input& input) {
  static constexpr const char* kTexts[] = {"",    "close",       "spread",    "none",  "openmp",     "serial",
                                           "tbb", "avx512",      "reference", "avx2",  "flat",       "0",
                                           "0-1", "heads_first", "0-,1",      "65535", "core:2 pu:1"};
  static constexpr const char* kMachines[] = {"core:2 pu:1", "pack:2 l3:1 core:2 pu:1", "numa:2 core:1 pu:2",
                                              "core:0", "nonsense"};
  std::string texts[6];
  for (int i = 0; i < 6; ++i) {
    if (i == 4) {
      texts[i] = input.one_in(4) ? input.text(24) : input.pick(kMachines);
      if (texts[i].empty() || !is_small_machine(texts[i])) texts[i] = kMachines[0];
    } else if (!input.one_in(2)) {
      texts[i] = input.one_in(2) ? input.text(24) : input.pick(kTexts);
    }
  }
  kumiko_context_options options = KUMIKO_CONTEXT_OPTIONS_INIT;
  options.num_threads = input.one_in(4) ? static_cast<std::int32_t>(input.number()) : input.below(5);
  if (input.one_in(8)) options.reserved = static_cast<std::int32_t>(input.number());
  options.cpus = texts[0].c_str();
  options.bind = texts[1].c_str();
  options.executor = texts[2].c_str();
  options.isa = input.one_in(2) ? nullptr : texts[3].c_str();
  options.topology = texts[4].c_str();
  options.policy = texts[5].c_str();
  if (input.one_in(8)) options.struct_size = static_cast<std::size_t>(input.number());
  const std::size_t size = options.struct_size;
  // A shorter struct selects the host's topology, whose number of threads the test cannot limit.
  const bool is_readable =
      size == sizeof options || size < offsetof(kumiko_context_options, cpus) || size > 4096 || size % 8 != 0;
  if (!is_readable) options.struct_size = sizeof options;
  const long countdown = input.one_in(4) ? input.byte() * 4 : -1;

  kumiko_context* context = nullptr;
  kumiko_status status;
  {
    const FailingNew failing(kLargestRequest, countdown);
    status = kumiko_context_create(&options, &context);
  }
  checked(status, "context_create");
  require((context != nullptr) == (status == KUMIKO_OK), "an error leaves the output parameter alone",
          "context_create");
  if (context) {
    const char* text = nullptr;
    std::int32_t threads = 0;
    require(checked(kumiko_context_describe(context, &text), "describe") == KUMIKO_OK && *text,
            "a context has a description");
    require(
        checked(kumiko_context_num_threads(context, &threads), "num_threads") == KUMIKO_OK && threads >= 1,
        "a context has threads");
    require(checked(kumiko_context_write_trace(context), "write_trace") == KUMIKO_INVALID_ARGUMENT,
            "a context without a trace writes none");
    fuzz_allocation(input, context);
  }
  return context;
}

namespace {

void refused(kumiko_status status, const char* call) {
  require(checked(status, call) == KUMIKO_INVALID_ARGUMENT, "a null pointer is an invalid argument", call);
}

void fuzz_nulls_of_gradients(const kumiko_context* context) {
  const kumiko_backward_args args = KUMIKO_BACKWARD_ARGS_INIT;  // without a forward call
  kumiko_backward_plan* plan = nullptr;
  const char* text = nullptr;
  std::int64_t bytes = 0;
  refused(kumiko_attention_backward(nullptr, &args), "attention_backward");
  refused(kumiko_attention_backward(context, nullptr), "attention_backward");
  refused(kumiko_attention_backward(context, &args), "attention_backward");
  refused(kumiko_backward_plan_create(nullptr, &args, &plan), "backward_plan_create");
  refused(kumiko_backward_plan_create(context, nullptr, &plan), "backward_plan_create");
  refused(kumiko_backward_plan_create(context, &args, &plan), "backward_plan_create");
  refused(kumiko_backward_plan_create(context, &args, nullptr), "backward_plan_create");
  refused(kumiko_backward_plan_run(nullptr, &args), "backward_plan_run");
  refused(kumiko_backward_plan_explain(nullptr, &text), "backward_plan_explain");
  refused(kumiko_backward_plan_workspace_bytes(nullptr, &bytes), "backward_plan_workspace_bytes");
  require(plan == nullptr && text == nullptr && bytes == 0, "an error leaves the output parameter alone");
  kumiko_backward_plan_destroy(nullptr);
}

void fuzz_nulls_of_streams(const kumiko_context* context, const kumiko_attention_args* attention,
                           const kumiko_kv_append_args* append) {
  kumiko_stream *stream = nullptr, *none = nullptr;
  kumiko_ticket* ticket = nullptr;
  std::int32_t answer = 7;
  refused(kumiko_stream_create(nullptr, nullptr, &none), "stream_create");
  refused(kumiko_stream_create(context, nullptr, nullptr), "stream_create");
  require(checked(kumiko_stream_create(context, nullptr, &stream), "stream_create") == KUMIKO_OK,
          "a stream needs no options");
  refused(kumiko_stream_attention_forward(nullptr, attention, nullptr, nullptr, &ticket), "stream_forward");
  refused(kumiko_stream_attention_forward(stream, nullptr, nullptr, nullptr, &ticket), "stream_forward");
  refused(kumiko_stream_plan_run(nullptr, nullptr, attention, nullptr, nullptr, &ticket), "stream_plan_run");
  refused(kumiko_stream_plan_run(stream, nullptr, attention, nullptr, nullptr, &ticket), "stream_plan_run");
  refused(kumiko_stream_kv_append(nullptr, append, nullptr, nullptr, &ticket), "stream_kv_append");
  refused(kumiko_stream_kv_append(stream, nullptr, nullptr, nullptr, &ticket), "stream_kv_append");
  refused(kumiko_ticket_wait(nullptr), "ticket_wait");
  refused(kumiko_ticket_done(nullptr, &answer), "ticket_done");
  refused(kumiko_ticket_cancel(nullptr, &answer), "ticket_cancel");
  require(none == nullptr && ticket == nullptr && answer == 7, "an error leaves the output parameter alone");
  kumiko_ticket_destroy(nullptr);
  kumiko_stream_destroy(nullptr);
  kumiko_stream_destroy(stream);
}

void fuzz_nulls_of_conversions(const kumiko_context* context) {
  const kumiko_const_tensor from = KUMIKO_TENSOR_INIT;
  const kumiko_tensor to = KUMIKO_TENSOR_INIT;
  float scale = 0;
  refused(kumiko_quantize_rows(nullptr, &from, &to, &scale, nullptr), "quantize_rows");
  refused(kumiko_quantize_rows(context, nullptr, &to, &scale, nullptr), "quantize_rows");
  refused(kumiko_quantize_rows(context, &from, nullptr, &scale, nullptr), "quantize_rows");
  refused(kumiko_pack_key_pages(nullptr, &from, &to), "pack_key_pages");
  refused(kumiko_pack_key_pages(context, nullptr, &to), "pack_key_pages");
  refused(kumiko_pack_key_pages(context, &from, nullptr), "pack_key_pages");
  refused(kumiko_unpack_key_pages(nullptr, &from, &to), "unpack_key_pages");
  refused(kumiko_unpack_key_pages(context, nullptr, &to), "unpack_key_pages");
  refused(kumiko_unpack_key_pages(context, &from, nullptr), "unpack_key_pages");
}

}  // namespace

void fuzz_nulls(Input& input, kumiko_context* context) {
  AttentionProblem problem(input, 1);
  SoftmaxPvProblem scores(input);
  FusedGemmProblem products(input);
  MergeProblem states(input);
  problem.pass(), scores.pass(), products.pass(), states.pass();
  kumiko_plan* plan = nullptr;
  const char* text = nullptr;
  std::int64_t bytes = 0;
  refused(kumiko_context_create(nullptr, nullptr), "context_create");
  refused(kumiko_context_describe(nullptr, &text), "context_describe");
  refused(kumiko_context_describe(context, nullptr), "context_describe");
  refused(kumiko_context_num_threads(nullptr, nullptr), "context_num_threads");
  refused(kumiko_context_num_domains(nullptr, nullptr), "context_num_domains");
  refused(kumiko_context_num_domains(context, nullptr), "context_num_domains");
  refused(kumiko_context_write_trace(nullptr), "context_write_trace");
  void* memory = nullptr;
  refused(kumiko_context_allocate(nullptr, 0, 1, &memory), "context_allocate");
  refused(kumiko_context_allocate(context, 0, 1, nullptr), "context_allocate");
  refused(kumiko_plan_create(nullptr, problem.passed(), &plan), "plan_create");
  refused(kumiko_plan_create(context, nullptr, &plan), "plan_create");
  refused(kumiko_plan_create(context, problem.passed(), nullptr), "plan_create");
  refused(kumiko_plan_run(nullptr, problem.passed()), "plan_run");
  const std::int32_t length = 1;
  refused(kumiko_plan_update(nullptr, &length, 1), "plan_update");
  refused(kumiko_plan_update_pages(nullptr, &length, 1, &length, nullptr), "plan_update_pages");
  const kumiko_machine_rates rates = {1e11, 1e10, 2e10, 0};
  double seconds = 0;
  refused(kumiko_plan_predict(nullptr, &rates, &seconds, nullptr), "plan_predict");
  refused(kumiko_plan_explain(nullptr, &text), "plan_explain");
  refused(kumiko_plan_workspace_bytes(nullptr, &bytes), "plan_workspace_bytes");
  refused(kumiko_attention_forward(nullptr, problem.passed()), "attention_forward");
  refused(kumiko_attention_forward(context, nullptr), "attention_forward");
  refused(kumiko_attention_forward_default(nullptr), "attention_forward_default");
  const kumiko_attention_state state = {KUMIKO_TENSOR_INIT, nullptr, {0, 0, 0}};
  const kumiko_tensor out = KUMIKO_TENSOR_INIT;
  refused(scores.call(nullptr), "softmax_pv");
  refused(kumiko_softmax_pv(context, nullptr), "softmax_pv");
  refused(products.call(nullptr), "fused_gemm");
  refused(kumiko_fused_gemm(context, nullptr), "fused_gemm");
  refused(states.call(nullptr), "merge_states");
  const kumiko_kv_append_args append = KUMIKO_KV_APPEND_ARGS_INIT;
  refused(kumiko_kv_append(nullptr, &append), "kv_append");
  refused(kumiko_kv_append(context, nullptr), "kv_append");
  refused(kumiko_merge_states(context, nullptr, 1, &out, nullptr, nullptr), "merge_states");
  refused(kumiko_merge_states(context, &state, 1, nullptr, nullptr, nullptr), "merge_states");
  require(plan == nullptr && text == nullptr && bytes == 0 && memory == nullptr && seconds == 0,
          "an error leaves the output parameter alone");
  fuzz_nulls_of_gradients(context);
  fuzz_nulls_of_streams(context, problem.passed(), &append);
  fuzz_nulls_of_conversions(context);
  kumiko_context_destroy(nullptr);
  kumiko_plan_destroy(nullptr);
  kumiko_free(nullptr, 1);
}

void fuzz_trace(Input& input, const kumiko_context* context, const char* file) {
  AttentionProblem problem(input, 1);
  const long countdown = input.byte();
  problem.pass();
  const kumiko_status ran = checked(problem.call(context), "attention_forward");
  require(ran == KUMIKO_OK || !problem.is_runnable(), "a sound problem runs");
  {
    const FailingNew failing(SIZE_MAX, countdown);
    const kumiko_status status = kumiko_context_write_trace(context);
    require(checked(status, "write_trace") == KUMIKO_OK || status == KUMIKO_OUT_OF_MEMORY,
            "a trace is written");
  }
  require(checked(kumiko_context_write_trace(context), "write_trace") == KUMIKO_OK, "a trace is written");
  std::ifstream in(file);
  const std::string text(std::istreambuf_iterator<char>(in), {});
  require(text.starts_with("{") && text.ends_with("]}\n"), "the file is a whole trace", text.substr(0, 200));
}

}  // namespace kumiko::fuzz
