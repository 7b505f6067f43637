// SPDX-License-Identifier: Apache-2.0
// A timeline of every worker, written as Chrome/Perfetto JSON (KUMIKO_TRACE). Recording an event is a clock
// reading and a store into the slot's own memory. The file is written when the context or the process ends,
// and on request.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "kernels/pipelines/pipeline.h"
#include "runtime/ticks.h"
#include "scheduler/topology.h"

namespace kumiko {

struct TracedTask {
  std::int64_t begin, end;  // ticks, as all times here
  std::int64_t bytes;       // of K and V that it read
  std::int32_t run, task, batch, kv_head, kv_heads;
  std::int16_t home;  // the domain whose memory holds them, by plan or page_domains
  std::int64_t first_phase, phases;
  std::int64_t phases_end;  // end, unless phases were dropped
  // Of kv_append: its tokens [first_token, end_token), which have no sequence or head, and bytes of K and V
  // that were written.
  std::int32_t first_token, end_token;
  bool is_append() const { return end_token > 0; }
};

class Tracer {
 public:
  /// Events a slot keeps; later ones are counted and dropped. Their memory is touched only as they come.
  static constexpr std::int64_t kMostTasks = std::int64_t{1} << 16, kMostPhases = std::int64_t{1} << 20;

  /// nullptr and a message in `error` if the file cannot be written. Further tracers of a process that name
  /// the same file write FILE.2, FILE.3 and so on. Throws bad_alloc.
  static std::unique_ptr<Tracer> create(const std::string& file, const scheduler::Topology& topology,
                                        const std::vector<scheduler::Seat>& seats, std::string& error);
  /// Writes the file. If that fails, no partial file is left.
  ~Tracer();
  Tracer(const Tracer&) = delete;

  std::int64_t now() const noexcept { return clock_.read(); }

  /// Written by the worker of one slot. Other threads read only the first num_tasks tasks and their phases.
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

  /// Writes all events so far to a temporary file, then renames it. Returns "" or the error.
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
  mutable std::mutex runs_mutex_, write_mutex_;
  std::vector<Run> runs_;  // of fixed capacity
};

/// One task and its phases, while it runs in a slot.
class TaskTrace final : public kernels::PhaseWatch {
 public:
  /// `task`: its fields other than times and phases. `tracer` may be nullptr: then nothing is recorded.
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
