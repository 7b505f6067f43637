// SPDX-License-Identifier: Apache-2.0
// What each worker did when, written as Chrome/Perfetto JSON (KUMIKO_TRACE). Recording is a look at the clock
// and a store into memory of the slot's own; the file is written when the context ends, when the process
// does, or when asked for.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "kernels/pipelines/pipeline.h"
#include "runtime/status.h"
#include "runtime/ticks.h"
#include "scheduler/topology.h"

namespace kumiko {

struct TracedTask {
  std::int64_t begin, end;  // ticks, as all times here
  std::int64_t bytes;       // of K and V that it read
  std::int32_t run, task, batch, kv_head;
  std::int16_t home;  // the domain whose memory that is, by plan
  std::int64_t first_phase, phases;
  std::int64_t phases_end;  // end, unless phases were dropped
};

class Tracer {
 public:
  /// What a slot keeps, in memory that is touched as it comes; later ones are counted and dropped.
  static constexpr std::int64_t kMostTasks = std::int64_t{1} << 16, kMostPhases = std::int64_t{1} << 20;

  /// nullptr and a sentence in `error` when the file cannot be written. Further tracers of a process that
  /// name the same file write FILE.2, FILE.3 and so on. Throws bad_alloc.
  static std::unique_ptr<Tracer> create(const std::string& file, const scheduler::Topology& topology,
                                        const std::vector<scheduler::Seat>& seats, std::string& error);
  /// Writes the file. Where that fails nothing is left behind.
  ~Tracer();
  Tracer(const Tracer&) = delete;

  std::int64_t now() const noexcept { return clock_.read(); }

  /// What the worker of one slot writes. Tasks are read by others up to `count`, phases only as those of a
  /// task.
  struct Lane {
    scheduler::Seat seat;
    std::unique_ptr<TracedTask[]> tasks;
    std::unique_ptr<std::uint64_t[]>
        phases;  // where each begins: ticks from start() on, << 8 | kernels::Phase
    std::int64_t num_phases = 0;
    std::atomic<std::int64_t> num_tasks{0};
    std::atomic<std::int64_t> dropped{0};  // tasks and phases
  };
  Lane& lane(int slot) noexcept { return lanes_[static_cast<std::size_t>(slot)]; }
  std::int64_t start() const noexcept { return clock_.first(); }

  /// A call of run(), from begin on. Any thread.
  std::int32_t next_run() noexcept { return next_run_.fetch_add(1, std::memory_order_relaxed); }
  void add_run(std::int32_t run, std::int64_t begin, std::int64_t end) noexcept;

  /// Writes all events until now: first beside the file, then in its place. "" or why not.
  std::string write() const;
  std::string to_json() const;
  const std::string& file() const { return file_; }

 private:
  struct Run {
    std::int32_t number;
    std::int64_t begin, end;
  };

  Tracer(std::string file, const scheduler::Topology& topology, const std::vector<scheduler::Seat>& seats);

  std::string file_;
  std::vector<scheduler::Domain> domains_;
  std::unique_ptr<Lane[]> lanes_;
  std::size_t num_lanes_;
  TickClock clock_;
  int process_;  // a forked child does not write
  std::atomic<std::int32_t> next_run_{0};
  mutable std::mutex runs_mutex_;
  std::vector<Run> runs_;  // of fixed capacity
};

/// One task and its phases, while it runs in a slot.
class TaskTrace final : public kernels::PhaseWatch {
 public:
  /// `task`: what is known of it. `tracer` may be nullptr: then nothing is done.
  TaskTrace(Tracer* tracer, int slot, const TracedTask& task) noexcept;
  ~TaskTrace();
  TaskTrace(const TaskTrace&) = delete;
  kernels::PhaseWatch* watch() noexcept { return lane_ ? this : nullptr; }

 private:
  static void enter_phase(kernels::PhaseWatch* self, kernels::Phase phase) noexcept;

  Tracer* tracer_;
  Tracer::Lane* lane_;
  std::int64_t room_;     // for phases
  std::int64_t dropped_;  // phases
  TracedTask task_;
};

}  // namespace kumiko
