// libFuzzer over the C ABI: whatever the arguments, a call returns a documented status, an error names what
// is wrong and leaves the output parameters alone, nothing is printed, and a plan that is made runs, on
// memory of exactly its size. Requests for memory fail as well. AddressSanitizer and
// UndefinedBehaviorSanitizer watch the rest.
#include <fcntl.h>
#include <kumiko/attention_c.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <regex>
#include <string>

#include "tests/fuzz/failing_new.h"
#include "tests/fuzz/problem.h"

namespace kumiko::fuzz {
namespace {

// Larger requests are refused: a plan for more memory than this says so at once, and small ones come often.
constexpr std::size_t kLargestRequest = std::size_t{4} << 20;

int console = STDERR_FILENO;  // where libFuzzer's report goes; the library's own is watched
int printed = -1;
const Problem* current = nullptr;  // for the report of a failure

[[noreturn]] void fail(const char* what, const std::string& detail) {
  dprintf(console, "broken promise: %s\n  %s\n  last error: \"%s\"\n", what, detail.c_str(),
          kumiko_last_error());
  if (current) dprintf(console, "%s\n", current->describe().c_str());
  std::abort();
}
void require(bool holds, const char* what, const std::string& detail = "") {
  if (!holds) fail(what, detail);
}

bool names_an_argument(const std::string& message) {
  static constexpr const char* kNames[] = {"q.",       "k.",          "v.",           "out.",
                                           "lse",      "scale",       "is_causal",    "causal_alignment",
                                           "pipeline", "window_left", "window_right", "seqused_k",
                                           "args",     "plan",        "context",      "text",
                                           "bytes",    "options",     "num_threads",  "cpus",
                                           "bind",     "executor",    "isa",          "topology",
                                           "policy"};
  return std::any_of(std::begin(kNames), std::end(kNames),
                     [&](const char* name) { return message.find(name) != std::string::npos; });
}

// What every status comes with.
kumiko_status checked(kumiko_status status, const char* call) {
  const std::string message = kumiko_last_error();
  switch (status) {
    case KUMIKO_OK:
      require(message.empty(), "success leaves no error", call);
      break;
    case KUMIKO_INVALID_ARGUMENT:
    case KUMIKO_UNSUPPORTED:
      require(names_an_argument(message), "an error names the argument", call);
      require(message.find('\n') == std::string::npos, "an error is one line", call);
      break;
    case KUMIKO_OUT_OF_MEMORY:
      require(!message.empty(), "an error has a sentence", call);
      require(FailingNew::has_refused() || message.find("split states") != std::string::npos,
              "out of memory only when memory is short", call);
      break;
    default:  // the environment is empty, and nothing is to be reported to us
      fail("a status that this call may return",
           call + std::string(" returned ") + kumiko_status_name(status));
  }
  return status;
}

class Plan {
 public:
  Plan() = default;
  Plan(const Plan&) = delete;
  ~Plan() { kumiko_plan_destroy(plan_); }
  kumiko_status create(const kumiko_context* context, Problem& problem, long countdown) {
    require(plan_ == nullptr, "one plan each");
    const kumiko_attention_args* args = problem.pass();
    kumiko_status status;
    {
      const FailingNew failing(kLargestRequest, countdown);
      status = kumiko_plan_create(context, args, &plan_);
    }
    require((plan_ != nullptr) == (status == KUMIKO_OK), "an error leaves the output parameter alone",
            "plan_create");
    return checked(status, "plan_create");
  }
  const kumiko_plan* get() const { return plan_; }

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
  require(checked(kumiko_plan_workspace_bytes(plan, &bytes), "workspace_bytes") == KUMIKO_OK && bytes >= 0,
          "the workspace has a size", std::to_string(bytes));
}

// `call`: kumiko_plan_run or kumiko_attention_forward on problem.pass(). The problem owns its memory.
template <class Call>
kumiko_status check_call(const char* name, Problem& problem, long countdown, Call call) {
  problem.poison_outputs();
  const kumiko_attention_args* args = problem.pass();
  kumiko_status status;
  {
    const FailingNew failing(kLargestRequest, countdown);
    status = call(args);
  }
  checked(status, name);
  if (status != KUMIKO_OK) {
    require(problem.outputs_untouched(), "an error leaves the outputs alone", name);
  } else {
    require(problem.is_runnable(), "only a sound problem runs", name);
    require(problem.outputs_written(), "a run writes its outputs and nothing else", name);
  }
  return status;
}

void fuzz_call(Input& input, const kumiko_context* context) {
  const std::uint8_t flags = input.byte();
  const long countdown = flags & 1 ? input.byte() : -1;
  Problem problem(input);
  const struct Current {
    explicit Current(const Problem* problem) { current = problem; }
    ~Current() { current = nullptr; }
  } reported(&problem);
  for (int faults = (flags >> 1) % 4; faults > 0; --faults) problem.add_fault(input);

  const auto forward = [&](const kumiko_attention_args* args) {
    return kumiko_attention_forward(context, args);
  };
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
    // Strides that interleave an output's dimensions without a collision are refused as well; only where the
    // memory is ours is it known that there is none.
    if (status == KUMIKO_INVALID_ARGUMENT &&
        !std::strstr(kumiko_last_error(), "keeps the output's elements apart"))
      require(!problem.is_sane(), "only an unsound problem is refused");
    if (problem.owns_memory()) {
      // A bad pointer is seen before memory runs short.
      const kumiko_status forwarded = check_call("attention_forward", problem, -1, forward);
      require(forwarded == status || forwarded == KUMIKO_INVALID_ARGUMENT,
              "forward refuses what plan refuses");
    }
    return;
  }
  require(problem.is_sane(), "only a sound problem is planned");
  check_texts(plan.get(), countdown);

  const auto run = [&](const kumiko_attention_args* args) { return kumiko_plan_run(plan.get(), args); };
  if (problem.owns_memory()) {
    if (countdown >= 0) check_call("plan_run", problem, countdown, run);
    const kumiko_status ran = check_call("plan_run", problem, -1, run);
    require(ran == KUMIKO_OK || !problem.is_runnable(), "a sound problem runs", "plan_run");
    if (ran == KUMIKO_OK) {
      const auto first = problem.outputs();
      require(check_call("attention_forward", problem, -1, forward) == KUMIKO_OK,
              "what runs once runs again");
      require(problem.outputs() == first, "plan and forward give the same bits");
    }
  }
  // The plan meets another problem.
  const Problem::Planned planned = problem.planned();
  problem.add_fault(input);
  problem.pass();  // drops lengths that a larger batch would read past
  const bool is_same = problem.is_same(planned);
  if (is_same && !problem.owns_memory()) return;
  if (!problem.owns_memory()) {
    require(checked(kumiko_plan_run(plan.get(), problem.pass()), "plan_run") == KUMIKO_INVALID_ARGUMENT,
            "a plan refuses another problem", "plan_run");
  } else if (check_call("plan_run", problem, -1, run) == KUMIKO_OK) {
    require(is_same, "a plan refuses another problem");
  }
}

// hwloc's descriptions grow with the product of their numbers, and with the threads that a context then
// starts.
bool is_small_machine(const std::string& description) {
  double product = 1;
  static const std::regex number("[0-9]+");
  for (auto it = std::sregex_iterator(description.begin(), description.end(), number);
       it != std::sregex_iterator(); ++it)
    product *= std::max(1.0, std::atof(it->str().c_str()));
  return product <= 8;
}

void fuzz_context(Input& input) {
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
  // A shorter struct leaves the topology to the host, whose number of threads is not ours to choose.
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
    fuzz_call(input, context);
  }
  kumiko_context_destroy(context);
}

void fuzz_nulls(Input& input, kumiko_context* context) {
  Problem problem(input);
  kumiko_plan* plan = nullptr;
  const char* text = nullptr;
  std::int64_t bytes = 0;
  const auto refused = [](kumiko_status status, const char* call) {
    require(checked(status, call) == KUMIKO_INVALID_ARGUMENT, "a null pointer is an invalid argument", call);
  };
  refused(kumiko_context_create(nullptr, nullptr), "context_create");
  refused(kumiko_context_describe(nullptr, &text), "context_describe");
  refused(kumiko_context_describe(context, nullptr), "context_describe");
  refused(kumiko_context_num_threads(nullptr, nullptr), "context_num_threads");
  refused(kumiko_plan_create(nullptr, problem.pass(), &plan), "plan_create");
  refused(kumiko_plan_create(context, nullptr, &plan), "plan_create");
  refused(kumiko_plan_create(context, problem.pass(), nullptr), "plan_create");
  refused(kumiko_plan_run(nullptr, problem.pass()), "plan_run");
  refused(kumiko_plan_explain(nullptr, &text), "plan_explain");
  refused(kumiko_plan_workspace_bytes(nullptr, &bytes), "plan_workspace_bytes");
  refused(kumiko_attention_forward(nullptr, problem.pass()), "attention_forward");
  refused(kumiko_attention_forward(context, nullptr), "attention_forward");
  refused(kumiko_attention_forward_default(nullptr), "attention_forward_default");
  require(plan == nullptr && text == nullptr && bytes == 0, "an error leaves the output parameter alone");
  kumiko_context_destroy(nullptr);
  kumiko_plan_destroy(nullptr);
}

kumiko_context* make_context(const char* executor, const char* topology, const char* isa,
                             const char* policy) {
  kumiko_context_options options = KUMIKO_CONTEXT_OPTIONS_INIT;
  options.executor = executor;
  options.topology = topology;
  options.isa = isa;
  options.policy = policy;
  kumiko_context* context = nullptr;
  require(kumiko_context_create(&options, &context) == KUMIKO_OK, "a context can be made");
  return context;
}

// libFuzzer has put /dev/null in the place of standard output and error (-close_fd_mask=3) and kept its own
// copies.
void watch_output() {
  printed = memfd_create("printed", MFD_CLOEXEC);
  dup2(printed, STDOUT_FILENO);
  dup2(printed, STDERR_FILENO);
}

void require_nothing_printed() {
  std::fflush(stdout);
  const off_t size = lseek(printed, 0, SEEK_END);
  if (size <= 0) return;
  std::string text(static_cast<std::size_t>(size), '\0');
  if (pread(printed, text.data(), text.size(), 0) < 0) text = "?";
  fail("nothing is printed", text);
}

}  // namespace
}  // namespace kumiko::fuzz

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  kumiko::fuzz::console = dup(STDERR_FILENO);
  setenv("KMP_BLOCKTIME", "0", 1);  // Clang's OpenMP would spin for 200 ms after each team's end
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
  if (printed < 0) watch_output();
  Input input(data, size);
  const std::uint8_t what = input.byte();
  if (what < 2) {
    fuzz_context(input);
  } else if (what < 4) {
    fuzz_nulls(input, contexts[0]);
  } else {
    fuzz_call(input, contexts[what % std::size(contexts)]);
  }
  require_nothing_printed();
  return 0;
}
