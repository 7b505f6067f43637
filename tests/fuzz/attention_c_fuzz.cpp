// SPDX-License-Identifier: Apache-2.0
// libFuzzer over the C ABI. With any arguments a call returns a documented status and prints nothing; an
// error names the argument and leaves the output parameters unchanged; every plan that is made runs, on
// memory of exactly its size. Requests for memory fail, too. AddressSanitizer and UndefinedBehaviorSanitizer
// check the rest.
#include <kumiko/attention_c.h>
#include <kumiko/kv_append_c.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <regex>
#include <span>
#include <string>

#include "tests/fuzz/append_fuzz.h"
#include "tests/fuzz/attention_problem.h"
#include "tests/fuzz/backward_fuzz.h"
#include "tests/fuzz/checks.h"
#include "tests/fuzz/context_fuzz.h"
#include "tests/fuzz/failing_new.h"
#include "tests/fuzz/merge_problem.h"
#include "tests/fuzz/products_problem.h"
#include "tests/fuzz/rows_fuzz.h"
#include "tests/fuzz/stream_fuzz.h"

namespace kumiko::fuzz {
namespace {

// The reference instruction set computes element by element, so only small problems are repeated on it.
constexpr Wide kMostReferenceWork = 1 << 13;

// Inputs that begin with these bytes or larger ones are gradients, streams, calls of kv_append and
// conversions of rows.
constexpr std::uint8_t kFirstBackward = 224, kFirstStream = 232, kFirstAppend = 240, kFirstRows = 252;

class Plan {
 public:
  Plan() = default;
  Plan(const Plan&) = delete;
  ~Plan() { kumiko_plan_destroy(plan_); }
  kumiko_status create(const kumiko_context* context, AttentionProblem& problem, long countdown) {
    require(plan_ == nullptr, "one plan each");
    problem.pass();
    kumiko_status status;
    {
      const FailingNew failing(kLargestRequest, countdown);
      status = kumiko_plan_create(context, problem.passed(), &plan_);
    }
    require((plan_ != nullptr) == (status == KUMIKO_OK), "an error leaves the output parameter alone",
            "plan_create");
    return checked(status, "plan_create");
  }
  kumiko_plan* get() const { return plan_; }

 private:
  kumiko_plan* plan_ = nullptr;
};

void check_texts(const kumiko_plan* plan, long countdown) {
  const char* text = nullptr;
  std::int64_t bytes = INT64_MIN;
  {
    const FailingNew failing(kLargestRequest, countdown);
    const kumiko_status status = checked(kumiko_plan_explain(plan, &text), "plan_explain");
    require((text != nullptr) == (status == KUMIKO_OK), "an error leaves the output parameter alone",
            "plan_explain");
  }
  require(checked(kumiko_plan_explain(plan, &text), "plan_explain") == KUMIKO_OK, "a plan explains itself");
  require(std::strstr(text, "problem: ") && std::strstr(text, "workspace: "), "an explanation has its lines",
          text);
  const kumiko_machine_rates rates = {1e11, 1e10, 2e10, 1e-5};
  double seconds = -1, attainable = -1;
  require(checked(kumiko_plan_predict(plan, &rates, &seconds, &attainable), "plan_predict") == KUMIKO_OK &&
              seconds >= rates.start_seconds && attainable >= 0 && std::isfinite(seconds + attainable),
          "a prediction is a time");
  require(checked(kumiko_plan_workspace_bytes(plan, &bytes), "workspace_bytes") == KUMIKO_OK && bytes >= 0,
          "the workspace has a size", std::to_string(bytes));
}

// `call`: -> status, on the arguments that problem.pass() prepared. It must be safe to call.
template <class Call>
kumiko_status check_call(const char* name, Problem& problem, long countdown, Call call) {
  problem.poison_outputs();
  problem.pass();
  kumiko_status status;
  {
    const FailingNew failing(kLargestRequest, countdown);
    status = call();
  }
  checked(status, name);
  if (status != KUMIKO_OK) {
    require(problem.outputs_untouched(), "an error leaves the outputs alone", name);
  } else {
    require(problem.is_runnable(), "only a sound problem runs", name);
    require(problem.outputs_written(), "a run writes its outputs and nothing else", name);
    if (problem.is_plain())
      require(problem.outputs_are_right(), "finite inputs give finite outputs of their size", name);
  }
  return status;
}

// The problem must have run.
void compare_to_reference(Problem& problem, const kumiko_context* reference) {
  if (!problem.is_plain() || problem.work() > kMostReferenceWork) return;
  const std::vector<double> values = problem.output_values();
  require(check_call("on the reference", problem, -1, [&] { return problem.call(reference); }) == KUMIKO_OK,
          "what runs once runs on the reference instruction set");
  const std::vector<double> expected = problem.output_values();
  const std::vector<std::int32_t> types = problem.output_types();
  for (std::size_t i = 0; i < values.size(); ++i) {
    require(values[i] == expected[i] ||
                std::fabs(values[i] - expected[i]) <= problem.tolerance(expected[i], types[i]),
            "instruction sets agree",
            std::to_string(i) + ": " + std::to_string(values[i]) + ", not " + std::to_string(expected[i]));
  }
}

// Calls a problem without plans: softmax_pv, fused_gemm, merge_states. False if it did not run.
bool check_once(const char* name, Problem& problem, const kumiko_context* context,
                const kumiko_context* reference, long countdown) {
  const auto call = [&] { return problem.call(context); };
  if (!problem.owns_memory() && problem.is_sane()) return false;  // no machine has the memory
  if (countdown >= 0) check_call(name, problem, countdown, call);
  const kumiko_status status = check_call(name, problem, -1, call);
  if (status != KUMIKO_OK) {
    require(problem.is_faulty(), "a sound problem runs", name);
    require(status != KUMIKO_OUT_OF_MEMORY, "a problem with memory of its own needs little", name);
    // Strides that interleave an output's dimensions without a collision are refused as well.
    if (!problem.is_unsupported() && !std::strstr(kumiko_last_error(), "keeps the output's elements apart"))
      require(!problem.is_runnable(), "only an unsound problem is refused", name);
    return false;
  }
  const std::vector<unsigned char> first = problem.outputs();
  require(check_call(name, problem, -1, call) == KUMIKO_OK && problem.outputs() == first,
          "a second call gives the same bits", name);
  compare_to_reference(problem, reference);
  return true;
}

void check_in_place(MergeProblem& problem, const kumiko_context* context) {
  check_call("merge_states", problem, -1, [&] { return problem.call(context); });
  const std::vector<double> expected = problem.output_values();
  if (!problem.move_in_place()) return;
  problem.pass();
  require(checked(problem.call(context), "merge_states") == KUMIKO_OK, "a state's place may be the output's");
  const std::vector<double> values = problem.output_values();
  for (std::size_t i = 0; i < values.size(); ++i) {
    require(std::bit_cast<std::uint64_t>(values[i]) == std::bit_cast<std::uint64_t>(expected[i]),
            "in place gives the same bits",
            std::to_string(i) + ": " + std::to_string(values[i]) + ", not " + std::to_string(expected[i]));
  }
}

// Other lengths in place, and back again.
void check_update(kumiko_plan* plan, AttentionProblem& problem, const kumiko_context* context,
                  long countdown) {
  for (int turn = 0; turn < 2; ++turn) {
    const std::span<const std::int32_t> lengths = problem.other_lengths();
    if (lengths.empty()) return;
    const auto count = static_cast<std::int64_t>(lengths.size());
    const std::int32_t* const table = turn == 0 ? problem.block_table() : nullptr;
    const auto update = [&] {
      return checked(table ? kumiko_plan_update_pages(plan, lengths.data(), count, table, problem.kv_indptr())
                           : kumiko_plan_update(plan, lengths.data(), count),
                     "plan_update");
    };
    kumiko_status status;
    {
      const FailingNew failing(kLargestRequest, countdown);
      status = update();
    }
    if (status != KUMIKO_OK) {
      require(status == KUMIKO_OUT_OF_MEMORY, "valid lengths are taken over", "plan_update");
      require(update() == KUMIKO_OK, "and are once there is memory", "plan_update");
    }
    const auto forward = [&] { return problem.call(context); };
    require(check_call("attention_forward", problem, -1, forward) == KUMIKO_OK, "other lengths run as well");
    const std::vector<unsigned char> want = problem.outputs();
    const auto run = [&] { return kumiko_plan_run(plan, problem.passed()); };
    require(check_call("plan_run", problem, -1, run) == KUMIKO_OK && problem.outputs() == want,
            "an updated plan and forward give the same bits");
  }
}

struct Contexts {
  const kumiko_context *own, *other, *reference;  // `other`: of the same instruction set
};

void fuzz_attention(Input& input, const Contexts& contexts, int flags, long countdown) {
  const kumiko_context* const context = contexts.own;
  std::int32_t num_domains = 0;
  require(checked(kumiko_context_num_domains(context, &num_domains), "num_domains") == KUMIKO_OK &&
              num_domains >= 1,
          "a context has domains");
  AttentionProblem problem(input, num_domains, flags >> 3 & 1, flags >> 4 & 1);
  const Reported reported(&problem);
  for (int faults = (flags >> 1) % 4; faults > 0; --faults) problem.add_fault(input);

  const auto forward = [&] { return problem.call(context); };
  if (problem.block_table() && !problem.owns_memory()) return;  // plan() reads the table
  if (countdown >= 0) {
    Plan short_of_memory;
    const kumiko_status status = short_of_memory.create(context, problem, countdown);
    require(status != KUMIKO_OK || problem.is_sane(), "only a sound problem is planned");
    if (problem.owns_memory()) check_call("attention_forward", problem, countdown, forward);
  }
  Plan plan;
  const kumiko_status status = plan.create(context, problem, -1);
  if (status != KUMIKO_OK) {
    require(problem.is_faulty(), "a sound problem is planned");
    // Strides that interleave an output's dimensions without a collision are refused as well. That there is
    // none is known only for our own memory.
    if (status == KUMIKO_INVALID_ARGUMENT &&
        !std::strstr(kumiko_last_error(), "keeps the output's elements apart"))
      require(!problem.is_sane() || problem.has_table_at_no_address(), "only an unsound problem is refused");
    if (problem.owns_memory()) {
      // A bad pointer is found before memory is requested.
      const kumiko_status forwarded = check_call("attention_forward", problem, -1, forward);
      require(forwarded == status || forwarded == KUMIKO_INVALID_ARGUMENT,
              "forward refuses what plan refuses");
    }
    return;
  }
  require(problem.is_sane(), "only a sound problem is planned");
  check_texts(plan.get(), countdown);

  const auto run = [&] { return kumiko_plan_run(plan.get(), problem.passed()); };
  if (problem.owns_memory()) {
    if (countdown >= 0) check_call("plan_run", problem, countdown, run);
    const kumiko_status ran = check_call("plan_run", problem, -1, run);
    require(ran == KUMIKO_OK || !problem.is_runnable(), "a sound problem runs", "plan_run");
    if (ran == KUMIKO_OK) {
      const auto first = problem.outputs();
      require(check_call("attention_forward", problem, -1, forward) == KUMIKO_OK,
              "what runs once runs again");
      require(problem.outputs() == first, "plan and forward give the same bits");
      problem.forget_homes();
      require(
          check_call("attention_forward", problem, -1, forward) == KUMIKO_OK && problem.outputs() == first,
          "no result depends on where KV heads lie");
      if (contexts.other) {
        check_call("attention_forward", problem, -1, [&] { return problem.call(contexts.other); });
        require(problem.outputs() == first, "another machine's seats give the same bits");
      }
      compare_to_reference(problem, contexts.reference);
      check_update(plan.get(), problem, context, countdown);
    }
  }
  // Runs the plan on another problem.
  const AttentionProblem::Planned planned = problem.planned();
  problem.add_fault(input);
  problem.forget_homes();
  problem.pass();  // drops lengths that are too few for a larger batch
  const bool is_same = problem.is_same(planned);
  if (is_same && !problem.owns_memory()) return;
  if (!problem.owns_memory()) {
    require(checked(run(), "plan_run") == KUMIKO_INVALID_ARGUMENT, "a plan refuses another problem",
            "plan_run");
  } else if (check_call("plan_run", problem, -1, run) == KUMIKO_OK) {
    require(is_same, "a plan refuses another problem");
  }
}

template <class ProblemOfCall>
void fuzz_once(const char* name, Input& input, const Contexts& contexts, int flags, long countdown) {
  ProblemOfCall problem(input);
  const Reported reported(&problem);
  for (int faults = (flags >> 1) % 4; faults > 0; --faults) problem.add_fault(input);
  const bool ran = check_once(name, problem, contexts.own, contexts.reference, countdown);
  if constexpr (std::is_same_v<ProblemOfCall, MergeProblem>) {
    if (ran && !problem.is_faulty()) check_in_place(problem, contexts.own);
  }
}

// `what`: of 8 calls 5 are of attention.
void fuzz_call(Input& input, const Contexts& contexts, int what) {
  const int flags = input.byte();
  const long countdown = flags & 1 ? input.byte() : -1;
  switch (what % 8) {
    case 5:
      return fuzz_once<SoftmaxPvProblem>("softmax_pv", input, contexts, flags, countdown);
    case 6:
      return fuzz_once<FusedGemmProblem>("fused_gemm", input, contexts, flags, countdown);
    case 7:
      return fuzz_once<MergeProblem>("merge_states", input, contexts, flags, countdown);
    default:
      return fuzz_attention(input, contexts, flags, countdown);
  }
}

void fuzz_context(Input& input, const kumiko_context* reference) {
  kumiko_context* const context = make_any_context(input);
  if (context) {
    const int what = input.byte();
    fuzz_call(input, {context, nullptr, reference}, what);
  }
  kumiko_context_destroy(context);
}

kumiko_context* make_context(const char* executor, const char* topology, const char* isa, const char* policy,
                             const char* trace = nullptr) {
  kumiko_context_options options = KUMIKO_CONTEXT_OPTIONS_INIT;
  options.trace = trace;
  options.executor = executor;
  options.topology = topology;
  options.isa = isa;
  options.policy = policy;
  kumiko_context* context = nullptr;
  require(kumiko_context_create(&options, &context) == KUMIKO_OK, "a context can be made");
  return context;
}

}  // namespace
}  // namespace kumiko::fuzz

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  kumiko::fuzz::keep_console();
  setenv("KMP_BLOCKTIME", "0", 1);  // otherwise Clang's OpenMP spins for 200 ms after each team's end
  for (char** variable = environ; *variable;) {
    if (std::strncmp(*variable, "KUMIKO_", 7) == 0) {
      const std::string entry = *variable;
      unsetenv(entry.substr(0, entry.find('=')).c_str());
    } else {
      ++variable;
    }
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kumiko::fuzz;
  static kumiko_context* const contexts[] = {
      make_context("serial", "pack:2 l3:1 core:2 pu:1", nullptr,
                   "heads_first"),  // four seats: keys are split
      make_context("serial", "core:1 pu:1", nullptr, "flat"),
      make_context("serial", "core:3 pu:1", "reference", "flat"),
      make_context("openmp", "core:2 pu:1", nullptr, "flat"),
  };
  watch_output();
  Input input(data, size);
  const std::uint8_t what = input.byte();
  if (what < 2) {
    fuzz_context(input, contexts[2]);
  } else if (what < 4) {
    fuzz_nulls(input, contexts[0]);
    if (what == 3) {
      static constexpr const char* kTrace = "trace.json";
      static kumiko_context* const traced = make_context("serial", "core:2 pu:1", nullptr, "flat", kTrace);
      fuzz_trace(input, traced, kTrace);
    }
  } else {
    const std::size_t own = what % std::size(contexts);
    kumiko_context* const other = own == 2 ? nullptr : contexts[own == 0 ? 1 : 0];
    if (what >= kFirstRows)
      fuzz_rows(input, contexts[own], other, contexts[2]);
    else if (what >= kFirstAppend)
      fuzz_append(input, contexts[own], other, contexts[2]);
    else if (what >= kFirstStream)
      fuzz_stream(input, contexts[own]);
    else if (what >= kFirstBackward)
      fuzz_backward(input, contexts[own], other, contexts[2]);
    else
      fuzz_call(input, {contexts[own], other, contexts[2]}, what / 4);
  }
  require_nothing_printed();
  return 0;
}
