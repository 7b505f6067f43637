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
#include "scheduler/topology.h"

namespace kumiko {

struct TraceEvent {
  static constexpr std::int16_t kTask = -1;

  std::int64_t begin, end;  // nanoseconds of the steady clock
  std::int64_t bytes;       // of a task: K and V it read
  std::int32_t run, task, batch, kv_head;
  std::int16_t home;   // of a task: the domain whose memory that is, by plan
  std::int16_t phase;  // kernels::Phase, or kTask
};

class Tracer {
 public:
  /// Events a slot keeps; what comes later is counted and dropped. 48 bytes each, touched as they come.
  static constexpr std::int64_t kMostEvents = std::int64_t{1} << 18;

  /// nullptr and a sentence in `error` when the file cannot be written. Further tracers of a process that
  /// name the same file write FILE.2, FILE.3 and so on. Throws bad_alloc.
  static std::unique_ptr<Tracer> create(const std::string& file, const scheduler::Topology& topology,
                                        const std::vector<scheduler::Seat>& seats, std::string& error);
  /// Writes the file. Where that fails nothing is left behind.
  ~Tracer();
  Tracer(const Tracer&) = delete;

  static std::int64_t now() noexcept;

  /// For the thread that owns the slot.
  void add(int slot, const TraceEvent& event) noexcept;

  /// A call of run(), from begin on. Any thread.
  std::int32_t next_run() noexcept { return next_run_.fetch_add(1, std::memory_order_relaxed); }
  void add_run(std::int32_t run, std::int64_t begin, std::int64_t end) noexcept;

  /// Writes all events until now: first beside the file, then in its place. "" or why not.
  std::string write() const;
  std::string to_json() const;
  const std::string& file() const { return file_; }

 private:
  struct Lane {
    scheduler::Seat seat;
    std::unique_ptr<TraceEvent[]> events;
    std::atomic<std::int64_t> count{0};  // of events that are there to be read
    std::atomic<std::int64_t> dropped{0};
  };
  struct Run {
    std::int32_t number;
    std::int64_t begin, end;
  };

  Tracer(std::string file, const scheduler::Topology& topology, const std::vector<scheduler::Seat>& seats);

  std::string file_;
  std::vector<scheduler::Domain> domains_;
  std::unique_ptr<Lane[]> lanes_;
  std::size_t num_lanes_;
  std::int64_t start_;
  int process_;  // a forked child does not write
  std::atomic<std::int32_t> next_run_{0};
  mutable std::mutex runs_mutex_;
  std::vector<Run> runs_;  // of fixed capacity
};

/// The phases of one task, while it runs in a slot.
class TaskTrace final : public kernels::PhaseWatch {
 public:
  /// `event`: what is known of the task. `tracer` may be nullptr: then nothing is done.
  TaskTrace(Tracer* tracer, int slot, const TraceEvent& event) noexcept;
  ~TaskTrace();
  TaskTrace(const TaskTrace&) = delete;
  kernels::PhaseWatch* watch() noexcept { return tracer_ ? this : nullptr; }

 private:
  static void enter_phase(kernels::PhaseWatch* self, kernels::Phase phase) noexcept;
  void close(std::int64_t at) noexcept;

  Tracer* tracer_;
  int slot_;
  TraceEvent task_;
  std::int64_t since_ = 0;
  std::int16_t phase_ = TraceEvent::kTask;  // none yet
};

}  // namespace kumiko
