// SPDX-License-Identifier: Apache-2.0
#include "runtime/context.h"

#include <algorithm>
#include <cstdio>

#include "runtime/partition.h"
#include "runtime/validate_parts.h"
#include "scheduler/memory.h"

namespace kumiko {
namespace {

/// The library promises not to oversubscribe cores. A larger number of threads is an error: reducing it
/// silently would hide the mistake.
Status choose_threads(const Context::Impl& impl, int* threads) {
  int allowed = impl.topology.num_cores();
  std::string what = impl.topology.is_host ? "the cores this process may use"
                                           : "the cores of the topology " + impl.topology.source;
  if (impl.topology.is_host && impl.cgroup_limit > 0 && impl.cgroup_limit < allowed) {
    allowed = impl.cgroup_limit;
    what = "the CPUs its cgroup quota grants";
  }
  *threads = impl.config.num_threads == 0 ? allowed : impl.config.num_threads;
  if (*threads <= allowed) return {};
  return impl.config.num_threads_setting.error("1.." + std::to_string(allowed) + ", " + what);
}

Status create_impl(const ContextOptions& options, std::shared_ptr<Context::Impl>* out) {
  auto impl = std::make_shared<Context::Impl>();
  if (Status s = load_config(options, &impl->config); !s.ok()) return s;
  const Config& config = impl->config;

  std::string why;
  auto topology = scheduler::discover_topology(config.topology_setting.value, config.cpus, why);
  if (!topology) {
    if (why.starts_with("cpus: ") && config.cpus_setting.is_set())
      return config.cpus_setting.error("CPUs that can be used (" + why.substr(6) + ")");
    if (config.topology_setting.is_set())
      return config.topology_setting.error("an hwloc synthetic description or XML file (" + why + ")");
    return {Code::internal, why};
  }
  impl->topology = std::move(*topology);
  const kernels::Core core = kernels::host_core();
  impl->isa = config.isa ? *config.isa : kernels::best_isa(kernels::host_isas(), core);
  impl->core = core_tuning(core, impl->isa);
  if (config.tuning_setting.is_set() &&
      !read_tuning(config.tuning_setting.value, impl->isa, &impl->core, &why))
    return config.tuning_setting.error("a file of kumiko-tune (" + why + ")");
  impl->cgroup_limit = scheduler::cgroup_cpu_limit();

  scheduler::ExecutorOptions executor;
  if (Status s = choose_threads(*impl, &executor.num_threads); !s.ok()) return s;
  executor.topology = impl->topology;
  executor.spin = config.spin;
  executor.stack_bytes = config.openmp_stack_bytes;
  // A bound thread cannot move away from another process's thread. So by default threads are bound only if
  // there are several domains.
  executor.bind = config.bind.value_or(impl->topology.domains.size() > 1 ? scheduler::Bind::close
                                                                         : scheduler::Bind::none);
  impl->config.bind = executor.bind;
  impl->executor = config.executor->create(executor, why);
  if (!impl->executor)
    return {Code::unsupported, "executor is \"" + std::string(config.executor->name) + "\"; " + why};
  if (impl->topology.is_host && impl->topology.domains.size() > 1) {
    for (const scheduler::Domain& domain : impl->topology.domains)
      impl->split_states.emplace_back(domain.numa_node);
  }

  // Last, so that no file is left by what fails above.
  if (config.trace_setting.is_set()) {
    impl->tracer = Tracer::create(config.trace_setting.value, impl->topology, impl->executor->seats(), why);
    if (!impl->tracer) return config.trace_setting.error("a file that can be written (" + why + ")");
  }

  if (config.verbose) std::fprintf(stderr, "%s", ("kumiko: " + impl->describe()).c_str());
  *out = std::move(impl);
  return {};
}

/// " on CPUs 0-3,8": where the workers of a domain sit.
std::string seats_in(const scheduler::Executor& executor, std::size_t domain) {
  std::vector<int> cpus;
  for (const scheduler::Seat& seat : executor.seats()) {
    if (static_cast<std::size_t>(seat.domain) == domain) cpus.push_back(seat.os_cpu);
  }
  std::sort(cpus.begin(), cpus.end());
  std::string text;
  for (std::size_t i = 0; i < cpus.size();) {
    std::size_t last = i;
    while (last + 1 < cpus.size() && cpus[last + 1] == cpus[last] + 1) ++last;
    text += (text.empty() ? " on CPUs " : ",") + std::to_string(cpus[i]);
    if (last > i) text += "-" + std::to_string(cpus[last]);
    i = last + 1;
  }
  return text;
}

/// Messages quote strings of the caller and of the environment. Their control characters must not reach logs
/// and terminals.
Status one_line(const Status& status) {
  std::string message = status.message();
  for (char& c : message) {
    if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') c = '?';
  }
  return {status.code(), std::move(message)};
}

}  // namespace

// In a forked child the parent's threads do not exist and cannot be joined, and the locks of its arenas may
// stay held. So the child's copy of the executor is never destroyed.
Context::Impl::~Impl() {
  if (is_from_before_fork()) static_cast<void>(executor.release());
}

Status forked_error() {
  return {Code::unsupported,
          "context was made before this process was forked; expected one made in this process, as threads do "
          "not survive fork()"};
}

Status check_context(const Context& context) {
  if (!context) return {Code::invalid_argument, "context is empty; expected one made by Context::create"};
  return impl_of(context)->is_from_before_fork() ? forked_error() : Status{};
}

std::string Context::Impl::describe() const {
  std::string text = "isa " + std::string(kernels::name(isa)) + "\ntuning " + core.source + "\n";
  text += "executor " + std::string(executor->name()) + ", policy " + config.policy->name + ", bind " +
          bind_name(*config.bind) + "\n";
  text += "threads " + std::to_string(executor->concurrency()) + " of " +
          std::to_string(topology.num_cores()) + " cores";
  if (cgroup_limit > 0) text += ", cgroup quota " + std::to_string(cgroup_limit) + " CPUs";
  text += "\ntopology " + topology.source + "\n";
  const std::vector<int> workers = executor->workers_per_domain();
  for (std::size_t d = 0; d < topology.domains.size(); ++d) {
    const scheduler::Domain& domain = topology.domains[d];
    text += "domain " + std::to_string(d) + ": NUMA node " + std::to_string(domain.numa_node) + ", " +
            std::to_string(domain.cores.size()) + " cores from CPU " +
            std::to_string(domain.cores.front().os_cpu) + ", " + std::to_string(workers[d]) + " workers" +
            seats_in(*executor, d) + ", L2 " + std::to_string(domain.l2_bytes_per_core / 1024) +
            " KiB a core, last-level cache " + std::to_string(domain.llc_bytes / 1024) + " KiB\n";
  }
  if (tracer) text += "trace " + tracer->file() + "\n";
  const std::string note = scheduler::placement_note();
  text += "placement " + (note.empty() ? std::string("per NUMA node") : note) + "\n";
  return text;
}

Status Context::create(const ContextOptions& options, Context* context) {
  return guarded([&]() -> Status {
    if (!context) return {Code::invalid_argument, "context is null; expected a Context to fill"};
    std::shared_ptr<Impl> impl;
    if (Status s = create_impl(options, &impl); !s.ok()) return one_line(s);
    context->impl_ = std::move(impl);
    return {};
  });
}

DomainMemory::DomainMemory(DomainMemory&& other) noexcept {
  *this = std::move(other);
}
DomainMemory& DomainMemory::operator=(DomainMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(domain_, other.domain_);
  std::swap(is_placed_, other.is_placed_);
  return *this;
}
DomainMemory::~DomainMemory() {
  free(data_, size_);
}
void* DomainMemory::release() noexcept {
  DomainMemory empty;
  void* const given_up = data_;
  data_ = nullptr;
  *this = std::move(empty);
  return given_up;
}
void DomainMemory::free(void* data, std::int64_t bytes) noexcept {
  scheduler::Arena::free(static_cast<std::byte*>(data), static_cast<std::size_t>(bytes));
}

Status Context::allocate(int domain, std::int64_t bytes, DomainMemory* memory) const {
  return guarded([&]() -> Status {
    if (!impl_) return {Code::invalid_argument, "context is empty; expected one made by Context::create"};
    if (impl_->is_from_before_fork()) return forked_error();
    if (!memory) return {Code::invalid_argument, "memory is null; expected a DomainMemory to fill"};
    if (domain < kEachDomain || domain >= num_domains())
      return invalid("domain", domain,
                     "0.." + std::to_string(num_domains() - 1) + ", or -1 for a part on each");
    if (bytes < 1) return invalid("bytes", bytes, "1 or more");
    const scheduler::Topology& topology = impl_->topology;
    std::vector<int> nodes;
    for (std::size_t d = 0; d < topology.domains.size(); ++d)
      if (domain == kEachDomain || static_cast<int>(d) == domain)
        nodes.push_back(topology.is_host ? topology.domains[d].numa_node : -1);
    if (const std::int64_t whole =
            std::ssize(nodes) * static_cast<std::int64_t>(scheduler::round_to_pages(1));
        nodes.size() > 1 && bytes % whole != 0)
      return invalid("bytes", bytes,
                     "a multiple of " + std::to_string(whole) + ": whole pages of memory for each domain");
    scheduler::Arena arena = scheduler::Arena::allocate_on_each(static_cast<std::size_t>(bytes), nodes);
    if (arena.data() == nullptr)
      return {Code::out_of_memory,
              std::to_string(bytes) + " bytes on " +
                  (domain == kEachDomain ? "all domains" : "domain " + std::to_string(domain)) +
                  " could not be allocated"};
    DomainMemory made;
    made.is_placed_ = arena.placed();
    made.data_ = arena.release();
    made.size_ = bytes;
    made.domain_ = domain;
    *memory = std::move(made);
    return {};
  });
}

int Context::num_domains() const {
  return impl_ ? static_cast<int>(impl_->topology.domains.size()) : 0;
}

Status Context::write_trace() const {
  return guarded([&]() -> Status {
    if (!impl_) return {Code::invalid_argument, "context is empty; expected one made by Context::create"};
    if (!impl_->tracer)
      return {Code::invalid_argument,
              "context has no trace; expected one made with trace or KUMIKO_TRACE set"};
    if (impl_->is_from_before_fork()) return forked_error();
    const std::string why = impl_->tracer->write();
    if (why.empty()) return {};
    return one_line({Code::unsupported, "trace is \"" + impl_->tracer->file() +
                                            "\"; expected a file that can be written (" + why + ")"});
  });
}

int Context::num_threads() const {
  return impl_ ? impl_->executor->concurrency() : 0;
}
std::string Context::isa() const {
  return impl_ ? kernels::name(impl_->isa) : "";
}
std::string Context::describe() const {
  return impl_ ? impl_->describe() : "no context\n";
}

Status run_tasks(const Context::Impl& runtime, std::span<const scheduler::Task> tasks,
                 const scheduler::PolicyRow& policy, decltype(scheduler::Job::body) body, void* context,
                 std::size_t scratch_bytes) {
  const scheduler::Assignment assignment = policy.assign(tasks, runtime.executor->workers_per_domain());
  scheduler::Job job;
  job.assignment = &assignment;
  job.body = body;
  job.context = context;
  job.scratch_bytes = scratch_bytes;
  if (runtime.executor->reserve(scratch_bytes) && runtime.executor->run(job)) return {};
  return {Code::out_of_memory,
          "scratch of " + std::to_string(scratch_bytes) + " bytes a core could not be allocated"};
}

Status check_tasks(const char* of, std::int64_t count) {
  if (count <= kMaxTasks) return {};
  return {Code::unsupported, std::string(of) + " makes " + std::to_string(count) +
                                 " tasks; expected at most " + std::to_string(kMaxTasks)};
}

Status run_equal_tasks(const Context::Impl& runtime, const char* of, std::int64_t count,
                       decltype(scheduler::Job::body) body, void* context, std::size_t scratch_bytes) {
  if (Status s = check_tasks(of, count); !s.ok()) return s;
  const std::vector<scheduler::Task> tasks(static_cast<std::size_t>(count), scheduler::Task{1, 0});
  return run_tasks(runtime, tasks, *scheduler::find_policy("flat"), body, context, scratch_bytes);
}

}  // namespace kumiko
