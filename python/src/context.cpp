// SPDX-License-Identifier: Apache-2.0
// Context and the memory of its domains.
#include "context.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <pthread.h>

#include <memory>
#include <string>
#include <utility>

#include "call.h"

namespace kumiko::python {
namespace {

/// The shared context. The GIL guards it. The last one is never destroyed: at the end of the process other
/// threads may still be calling. A forked child, which lacks the parent's threads, makes its own.
const Context* shared = nullptr;
int fork_count = 0;

Context create(const ContextOptions& options) {
  Context made;
  without_gil([&] { return Context::create(options, &made); });
  return made;
}

const Context& shared_context() {
  if (shared == nullptr) {
    auto made = std::make_unique<Context>(create({}));
    if (shared == nullptr) shared = made.release();  // another thread may have been faster
  }
  return *shared;
}

void set_shared_context(const Context& context) {
  std::unique_ptr<const Context> before(std::exchange(shared, new Context(context)));
  without_gil([&] {
    before.reset();  // which may wait for its threads
    return Status();
  });
}

std::string text_of(const char* name, nb::handle value) {
  if (value.is_none()) return {};
  std::string text;
  if (!nb::try_cast(value, text)) wrong_type(name, value, "a string");
  return text;
}

std::string path_of(const char* name, nb::handle value) {
  if (value.is_none()) return {};
  const nb::object path = nb::steal(PyOS_FSPath(value.ptr()));
  if (path.is_valid()) return text_of(name, path);
  PyErr_Clear();
  wrong_type(name, value, "a path");
}

void init_context(Context* self, nb::handle num_threads, nb::handle cpus, nb::handle bind,
                  nb::handle executor, nb::handle isa, nb::handle topology, nb::handle policy,
                  nb::handle trace, nb::handle tuning) {
  ContextOptions options;
  if (!num_threads.is_none()) {
    const std::int64_t threads = integer_of("num_threads", num_threads);
    if (threads < 1 || threads > std::numeric_limits<int>::max())
      wrong_value("num_threads", std::to_string(threads), "1 or more, or None");
    options.num_threads = static_cast<int>(threads);
  }
  options.cpus = text_of("cpus", cpus);
  options.bind = text_of("bind", bind);
  options.executor = text_of("executor", executor);
  options.isa = text_of("isa", isa);
  options.topology = path_of("topology", topology);
  options.policy = text_of("policy", policy);
  options.trace = path_of("trace", trace);
  options.tuning = path_of("tuning", tuning);
  new (self) Context(create(options));
}

DomainMemory allocate(const Context& context, nb::handle domain, nb::handle nbytes) {
  const std::int64_t number = integer_of("domain", domain), bytes = integer_of("nbytes", nbytes);
  if (number < kEachDomain || number >= context.num_domains())
    wrong_value("domain", std::to_string(number),
                "0.." + std::to_string(context.num_domains() - 1) + ", or -1 for a part on each");
  if (bytes < 1) wrong_value("nbytes", std::to_string(bytes), "1 or more");
  DomainMemory memory;
  without_gil([&] { return context.allocate(static_cast<int>(number), bytes, &memory); });
  return memory;
}

void write_trace(const Context& context) {
  without_gil([&] { return context.write_trace(); });
}

int get_buffer(PyObject* self, Py_buffer* view, int flags) {
  const DomainMemory* const memory = nb::inst_ptr<DomainMemory>(self);
  return PyBuffer_FillInfo(view, self, memory->data(), static_cast<Py_ssize_t>(memory->size()), 0, flags);
}

nb::object to_dlpack(nb::handle self, const nb::kwargs& options) {
  const auto& memory = nb::cast<const DomainMemory&>(self);
  const nb::ndarray<nb::array_api, std::uint8_t, nb::ndim<1>> bytes(
      memory.data(), {static_cast<std::size_t>(memory.size())}, self);
  return nb::cast(bytes).attr("__dlpack__")(**options);
}

void bind_domain_memory(nb::module_& module) {
  static PyType_Slot slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(get_buffer)}, {0, nullptr}};
  nb::class_<DomainMemory>(
      module, "DomainMemory", nb::type_slots(slots),
      "Zeroed bytes on the NUMA node of one domain, or of each in turn, from Context.allocate(). They speak "
      "the "
      "buffer protocol and DLPack (uint8):\n"
      "numpy.frombuffer(memory, numpy.float32), torch.frombuffer(memory, dtype=torch.bfloat16). "
      "May outlive their context.")
      .def_prop_ro("domain", &DomainMemory::domain, "Number of the domain.")
      .def_prop_ro("nbytes", &DomainMemory::size, "Bytes, as requested.")
      .def_prop_ro(
          "is_placed", &DomainMemory::is_placed,
          "False: the memory could not be placed (Context.describe() says why); each page goes to the "
          "node of the thread that first writes to it.")
      .def("__len__", &DomainMemory::size)
      .def("__dlpack__", &to_dlpack, nb::sig("def __dlpack__(self, **options: object) -> object"),
           "The bytes as a DLPack capsule.")
      .def(
          "__dlpack_device__", [](const DomainMemory&) { return nb::make_tuple(dlpack::kCpu, 0); },
          nb::sig("def __dlpack_device__(self) -> tuple[int, int]"), "(1, 0): memory of the CPU.");
}

constexpr const char* kContextText = R"(A runtime: its threads, domains and workspaces.

Create few and share them: every method may be called from any number of threads at once. An option that is None
takes the value of its environment variable; if that is unset too, the machine decides (docs/environment.md).

num_threads  KUMIKO_NUM_THREADS: allowed cores, bounded by the cgroup's CPU quota
cpus         KUMIKO_CPUS: operating-system CPU numbers that may be used, "0-11,24-35"
bind         KUMIKO_BIND: "close", "spread" or "none"
executor     KUMIKO_EXECUTOR: "openmp", "tbb" or "serial"
isa          KUMIKO_ISA: "avx512_bf16", "avx512", "avx2", "sve512", "neon" or "reference"
topology     KUMIKO_TOPOLOGY: hwloc's synthetic description, or XML file, of a machine to plan for
policy       KUMIKO_POLICY: "heads_first" or "flat"
trace        KUMIKO_TRACE: file for a timeline of every core, in Perfetto's JSON
tuning       KUMIKO_TUNING: file that kumiko-tune wrote; no bit of a result depends on it

Raises ValueError (an option that does not parse), RuntimeError (a variable that does not), NotImplementedError (a
choice that is not available here), MemoryError.)";

}  // namespace

int forks() {
  return fork_count;
}

Context context_of(nb::handle value) {
  if (value.is_none()) return shared_context();
  Context* context = nullptr;
  if (!nb::try_cast(value, context) || context == nullptr)
    wrong_type("context", value, "a kumiko.Context or None");
  return *context;
}

void bind_context(nb::module_& module) {
  pthread_atfork(nullptr, nullptr, [] {
    shared = nullptr;
    ++fork_count;
  });
  bind_domain_memory(module);
  using nb::arg;
  nb::class_<Context>(module, "Context", kContextText)
      .def("__init__", &init_context, nb::kw_only(), arg("num_threads") = nb::none(),
           arg("cpus") = nb::none(), arg("bind") = nb::none(), arg("executor") = nb::none(),
           arg("isa") = nb::none(), arg("topology") = nb::none(), arg("policy") = nb::none(),
           arg("trace") = nb::none(), arg("tuning") = nb::none(),
           nb::sig(
               "def __init__(self, *, num_threads: int | None = None, cpus: str | None = None, "
               "bind: str | None = None, executor: str | None = None, isa: str | None = None, "
               "topology: str | os.PathLike[str] | None = None, policy: str | None = None, "
               "trace: str | os.PathLike[str] | None = None, tuning: str | os.PathLike[str] | None = None) "
               "-> None"))
      .def_prop_ro("num_threads", &Context::num_threads, "Threads that run tasks, callers included.")
      .def_prop_ro("isa", &Context::isa, "Instruction set of the kernels.")
      .def_prop_ro("num_domains", &Context::num_domains,
                   "Domains: sets of cores that share a NUMA node and a last-level cache.")
      .def("describe", &Context::describe,
           "Domains, cores, executor, instruction set and the limits that apply: one fact per line.")
      .def("allocate", &allocate, arg("domain"), arg("nbytes"),
           nb::sig("def allocate(self, domain: int, nbytes: int) -> DomainMemory"),
           "Zeroed memory for keys and values that `domain` (0 to num_domains - 1) is to read; -1: equal "
           "parts, "
           "part d on domain d's node, each whole pages of the machine's memory. Raises ValueError (no such "
           "domain; nbytes below 1 or not whole pages), MemoryError.")
      .def("write_trace", &write_trace,
           "Writes the trace so far, which is also written when the context is destroyed and when the "
           "process ends. "
           "Raises ValueError (no trace was asked for), NotImplementedError (the file cannot be written).")
      .def("__eq__", [](const Context& a, nb::handle b) {
        const Context* other = nullptr;
        return nb::try_cast(b, other) && other != nullptr && a == *other;
      });
  module.def(
      "default_context", [] { return shared_context(); },
      "The context of calls without one, shared by the process and made from the environment by the first of "
      "them. A forked child makes its own.");
  module.def("set_default_context", &set_shared_context, arg("context"),
             "Makes `context` the one of calls that name none.");
}

}  // namespace kumiko::python
