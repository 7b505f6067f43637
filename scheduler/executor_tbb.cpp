// SPDX-License-Identifier: Apache-2.0
// oneTBB's threads, which the executor shares with everything else in the process that uses oneTBB. Each
// domain has an arena with a place for each worker that may sit there. A caller takes a seat in its own
// domain, posts its job to the pool, and sends an invitation into every arena that has none under way. The
// thread that takes it up takes a seat in its arena's domain, takes tasks of all posted jobs, and invites two
// more threads. An invitation belongs to no job, so no caller waits for one that no thread has taken up:
// where oneTBB has no thread to spare, the caller finishes its job alone.
//
// Callers do not enter an arena. Once its places are taken, oneTBB hands a caller's part to a thread of the
// arena and leaves the caller to oneTBB's scheduler, which may have it take up invitations for as long as
// others post jobs.
#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/info.h>
#include <oneapi/tbb/task_arena.h>
#include <oneapi/tbb/task_scheduler_observer.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>

#include "scheduler/executors.h"
#include "scheduler/fork.h"
#include "scheduler/handover.h"
#include "scheduler/worker_pool.h"

namespace kumiko::scheduler {
namespace {

// Our own constant: oneTBB 2021.8 declares its constant but does not define it, so taking it by reference
// fails to link.
constexpr tbb::numa_node_id kAnyNode = tbb::task_arena::automatic;

// oneTBB prints a warning when an arena has more workers than it allows.
int allowed_parallelism() {
  const std::size_t allowed = tbb::global_control::active_value(tbb::global_control::max_allowed_parallelism);
  return static_cast<int>(std::clamp<std::size_t>(allowed, 1, 1 << 16));
}

// oneTBB's number for the NUMA node of each domain, or kAnyNode where no number means exactly that domain:
// without its library tbbbind oneTBB knows no nodes, a node may have several domains (L3 complexes of x86),
// and it counts the nodes that the thread may run on, which can differ from ours (KUMIKO_CPUS).
std::vector<tbb::numa_node_id> tbb_nodes(const Topology& topology) {
  std::vector<tbb::numa_node_id> ids(topology.domains.size(), kAnyNode);
  std::map<int, int> domains_on;
  for (const Domain& domain : topology.domains) ++domains_on[domain.numa_node];
  if (domains_on.size() < 2) return ids;
  std::vector<tbb::numa_node_id> known;
  try {
    // In a thread of its own: while tbbbind looks at the processors, hwloc may bind the thread to one after
    // another.
    std::thread([&] {
      try {
        known = tbb::info::numa_nodes();
      } catch (const std::bad_alloc&) {
        known.clear();
      }
    }).join();
  } catch (const std::system_error&) {
    return ids;
  }
  if (known.size() != domains_on.size()) return ids;
  for (std::size_t d = 0; d < ids.size(); ++d) {
    const auto node = domains_on.find(topology.domains[d].numa_node);
    const tbb::numa_node_id id = known[static_cast<std::size_t>(std::distance(domains_on.begin(), node))];
    const int cores = static_cast<int>(topology.domains[d].cores.size());
    if (node->second == 1 && tbb::info::default_concurrency(id) >= cores) ids[d] = id;
  }
  return ids;
}

// A domain's arena. Each worker in it has a Place by its slot of the arena, and takes a seat from there.
class WorkerArena final : public tbb::task_scheduler_observer {
 public:
  WorkerArena(int workers, tbb::numa_node_id node)
      : WorkerArena(std::make_unique<tbb::task_arena>(
                        tbb::task_arena::constraints{}.set_numa_id(node).set_max_concurrency(workers),
                        /*reserved for callers*/ 0),
                    workers, node) {}
  // An observer that has stopped is not told of workers still in the arena, so their masks are restored here.
  ~WorkerArena() override {
    observe(false);
    for (Place& place : places_) leave(place);
  }

  struct Place {
    std::atomic<pid_t> thread{0};  // The thread that was bound here; 0: none.
    cpu_set_t mask;                // The thread's own mask.
    int bound_to = -1;             // A seat; -1: none.
    int last_seat = -1;  // The last one taken here: a worker that keeps its seat need not be bound again.
  };
  Place& place() {
    return places_[static_cast<std::size_t>(tbb::this_task_arena::current_thread_index()) % places_.size()];
  }
  int workers() const { return workers_; }
  template <class Function>
  void enqueue(Function&& function) {
    arena_->enqueue(std::forward<Function>(function));
  }

  // Restores a worker's own mask when it leaves: the next arena it works for may belong to other code.
  void on_scheduler_exit(bool) override { leave(place()); }

  static void bind(Place& place, int seat, int os_cpu) {
    if (place.bound_to == seat) return;
    if (place.thread.load(std::memory_order_relaxed) == 0) {
      cpu_set_t mask;
      if (sched_getaffinity(0, sizeof mask, &mask) != 0) return;
      place.mask = mask;
      place.thread.store(gettid());
    }
    place.bound_to = seat;
    bind_this_thread(os_cpu);
  }

 private:
  WorkerArena(std::unique_ptr<tbb::task_arena> arena, int workers, tbb::numa_node_id node)
      : tbb::task_scheduler_observer(*arena),
        arena_(std::move(arena)),
        workers_(workers),
        is_on_node_(node != kAnyNode),
        places_(static_cast<std::size_t>(std::max(workers, 2))) {  // oneTBB's arenas have at least two.
    arena_->initialize();
    observe(true);
  }

  // An arena on a node binds the worker to its cores itself, and restores the mask from before.
  void leave(Place& place) const {
    const pid_t thread = place.thread.exchange(0);
    place.bound_to = -1;
    if (thread != 0 && !is_on_node_) sched_setaffinity(thread, sizeof place.mask, &place.mask);
  }

  const std::unique_ptr<tbb::task_arena> arena_;
  const int workers_;
  const bool is_on_node_;
  std::vector<Place> places_;
};

// Where invitations lead. oneTBB may hold some for as long as it has no thread to spare, longer than their
// executor lives. So what they look at first is never freed: a gate is handed from executor to executor, and
// an invitation to an earlier executor does nothing.
class EpochGate {
 public:
  static EpochGate& take() {
    const std::lock_guard lock(g_mutex);
    EpochGate* gate = g_idle;
    if (gate == nullptr) return *new EpochGate;
    g_idle = gate->next_;
    return *gate;
  }
  /// From now on invitations do nothing, and no thread is inside any more.
  void close() noexcept {
    epoch_.fetch_add(1);
    for (int inside = inside_.load(); inside != 0; inside = inside_.load()) inside_.wait(inside);
    take_over();
    const std::lock_guard lock(g_mutex);
    next_ = g_idle;
    g_idle = this;
  }

  std::uint64_t epoch() const noexcept { return epoch_.load(); }
  template <class Function>
  void enter(std::uint64_t epoch, Function function) noexcept {
    inside_.fetch_add(1);
    if (epoch_.load() == epoch) {
      take_over();
      function();
      hand_over();
    }
    inside_.fetch_sub(1);
    inside_.notify_all();
  }

 private:
  static std::mutex g_mutex;
  static EpochGate* g_idle;

  alignas(kLineBytes) std::atomic<std::uint64_t> epoch_{0};
  EpochGate* next_ = nullptr;
  alignas(kLineBytes) std::atomic<int> inside_{0};
};
constinit std::mutex EpochGate::g_mutex;
constinit EpochGate* EpochGate::g_idle = nullptr;

class ForeignWorkerPool final : public WorkerPool {
 public:
  ForeignWorkerPool(const ExecutorOptions& options, const std::vector<Seat>& seats)
      : WorkerPool(options, seats),
        seats_(seats),
        binds_(options.bind != Bind::none && options.topology.is_host),
        domain_arenas_(options.topology.domains.size()) {
    for (std::size_t s = 0; s < seats_.size(); ++s)
      domain_arenas_[static_cast<std::size_t>(seats_[s].domain)].seats.push_back(static_cast<int>(s));
    const int available = allowed_parallelism() - 1;
    const int needed = static_cast<int>(seats_.size()) - 1;  // The caller works on its job too.
    is_short_ = available <= needed;
    may_come_ = std::min(available, needed) > 0;
    if (!may_come_) return;
    const std::vector<tbb::numa_node_id> nodes =
        binds_ ? tbb_nodes(options.topology)
               : std::vector<tbb::numa_node_id>(domain_arenas_.size(), kAnyNode);
    for (std::size_t d = 0; d < domain_arenas_.size(); ++d) {
      // A caller takes one of the domain's seats or one of another's.
      const int workers = std::min({static_cast<int>(domain_arenas_[d].seats.size()), available, needed});
      if (workers > 0) domain_arenas_[d].arena.emplace(workers, nodes[d]);
    }
    gate_ = &EpochGate::take();
    epoch_ = gate_->epoch();
  }

  ~ForeignWorkerPool() override {
    if (gate_ != nullptr) gate_->close();
  }

 private:
  struct alignas(kLineBytes) DomainArena {
    std::optional<WorkerArena> arena;  // Empty where no worker can come.
    std::vector<int> seats;
    alignas(kLineBytes) std::atomic<int> invited{0};  // Under way or arrived.
  };

  // Invites a thread into each of two other domains, those with no invitation first, then two threads at
  // home: each domain wakes its own workers, and none waits for another to be awake. A domain that has
  // workers already gets one more, which invites the rest, because the others may be busy with an older job
  // for long. If parallelism has been limited to one thread meanwhile, nobody is invited: oneTBB does not
  // apply the limit to enqueued tasks.
  void wake_some(int near_seat) noexcept override {
    if (may_come_ && allowed_parallelism() > 1)
      invite_some(static_cast<std::size_t>(seats_[static_cast<std::size_t>(near_seat)].domain));
  }

  void invite_some(std::size_t home) noexcept {
    int elsewhere = 0;
    for (const bool to_uninvited : {true, false}) {
      for (std::size_t i = 1; i < domain_arenas_.size() && elsewhere < 2; ++i) {
        const std::size_t d = (home + i) % domain_arenas_.size();
        if ((domain_arenas_[d].invited.load() == 0) == to_uninvited) elsewhere += invite(d);
      }
    }
    for (int i = 0; i < 2 && invite(home); ++i) {
    }
  }

  bool invite(std::size_t domain) noexcept {
    DomainArena& home_arena = domain_arenas_[domain];
    if (!home_arena.arena || !count_in(home_arena)) return false;
    hand_over();
    try {
      home_arena.arena->enqueue(
          [this, gate = gate_, epoch = epoch_, domain] { gate->enter(epoch, [&] { visit(domain); }); });
    } catch (...) {
      // No memory for an invitation: fewer threads do the tasks.
      home_arena.invited.fetch_sub(1);
      return false;
    }
    return true;
  }

  static bool count_in(DomainArena& home_arena) noexcept {
    int invited = home_arena.invited.load();
    while (invited < home_arena.arena->workers()) {
      if (home_arena.invited.compare_exchange_weak(invited, invited + 1)) return true;
    }
    return false;
  }

  void visit(std::size_t domain) noexcept {
    DomainArena& home_arena = domain_arenas_[domain];
    WorkerArena::Place& place = home_arena.arena->place();
    do {
      for (int seat = take_seat(home_arena, place); seat >= 0; seat = take_seat(home_arena, place)) {
        if (binds_) WorkerArena::bind(place, seat, seats_[static_cast<std::size_t>(seat)].os_cpu);
        invite_some(domain);
        serve(seat);
      }
      // A caller that posted its job and found this domain fully invited has left the job to this worker,
      // which therefore looks again.
      home_arena.invited.fetch_sub(1);
    } while (has_work() && has_idle_seat(home_arena) && count_in(home_arena));
  }

  // The place's own seat; if a caller has it, the seat that replaced it last time, or any in the domain.
  // Where oneTBB has fewer workers than there are seats, as with one seat per core, it may have sent one too
  // many to the caller's domain: then any seat.
  int take_seat(DomainArena& home_arena, WorkerArena::Place& place) noexcept {
    const auto own =
        static_cast<std::size_t>(tbb::this_task_arena::current_thread_index()) % home_arena.seats.size();
    if (claim_seat(home_arena.seats[own])) return home_arena.seats[own];
    if (!has_work()) return -1;
    if (place.last_seat >= 0 && claim_seat(place.last_seat)) return place.last_seat;
    for (const int seat : home_arena.seats) {
      if (claim_seat(seat)) return place.last_seat = seat;
    }
    if (!is_short_) return -1;
    for (const DomainArena& other : domain_arenas_) {
      for (const int seat : other.seats) {
        if (claim_seat(seat)) return place.last_seat = seat;
      }
    }
    return -1;
  }

  bool has_idle_seat(const DomainArena& home_arena) const noexcept {
    return std::any_of(home_arena.seats.begin(), home_arena.seats.end(),
                       [this](int seat) { return is_idle(seat); });
  }

  const std::vector<Seat> seats_;
  const bool binds_;
  bool may_come_ = false;
  bool is_short_ = false;
  std::vector<DomainArena> domain_arenas_;
  EpochGate* gate_ = nullptr;
  std::uint64_t epoch_ = 0;
};

class TbbExecutor final : public Executor {
 public:
  explicit TbbExecutor(const ExecutorOptions& options)
      : Executor(options.topology, seat_workers(options.topology, options.num_threads, options.bind)),
        pool_(options, seats_) {}

  const char* name() const override { return "tbb"; }
  bool reserve(std::size_t bytes) override { return pool_.reserve(bytes); }
  bool run(const Job& job) override { return pool_.run(job); }

 private:
  ForeignWorkerPool pool_;
};

}  // namespace

std::unique_ptr<Executor> create_tbb_executor(const ExecutorOptions& options, std::string& error) {
  // oneTBB's threads belong to the process that first used them here. A forked child has oneTBB's bookkeeping
  // but none of the threads.
  static std::atomic<std::int64_t> first_use{-1};
  const std::int64_t generation = fork_generation();
  std::int64_t used = -1;
  if (!first_use.compare_exchange_strong(used, generation) && used != generation) {
    error =
        "oneTBB was in use when this process was forked, and the child has none of its threads; expected "
        "openmp or serial";
    return nullptr;
  }
  return std::make_unique<TbbExecutor>(options);
}

}  // namespace kumiko::scheduler
