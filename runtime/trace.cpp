// SPDX-License-Identifier: Apache-2.0
#include "runtime/trace.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "scheduler/fork.h"

namespace kumiko {
namespace {

constexpr std::size_t kMostRuns = std::size_t{1} << 16;
// A shorter gap between two tasks is the time to fetch the next.
constexpr std::int64_t kLeastIdle = 1000;  // ns

// Tracers whose file is written when the process ends, and how many tracers named each file. Never destroyed:
// it is used after static destructors have run. Under ProcessLock::traces.
struct Registry {
  std::vector<Tracer*> live;
  std::vector<std::pair<std::string, int>> files;
};
Registry& registry() {
  static Registry* const made = new Registry;
  return *made;
}

/// The file of one more tracer that was given the name `file`. It is free again unless the tracer is kept.
class FileName {
 public:
  explicit FileName(const std::string& file) : given_(file), name_(file) {
    const std::lock_guard lock(scheduler::mutex_of(scheduler::ProcessLock::traces));
    auto& files = registry().files;
    const auto known =
        std::find_if(files.begin(), files.end(), [&](const auto& f) { return f.first == file; });
    if (known == files.end()) {
      files.emplace_back(file, 1);
    } else {
      name_ += "." + std::to_string(known->second + 1);
      ++known->second;
    }
  }
  FileName(const FileName&) = delete;
  ~FileName() {
    if (is_kept_) return;
    const std::lock_guard lock(scheduler::mutex_of(scheduler::ProcessLock::traces));
    for (auto& [used, times] : registry().files) times -= used == given_;
    std::erase_if(registry().files, [](const auto& f) { return f.second == 0; });
  }
  const std::string& get() const { return name_; }
  void keep() { is_kept_ = true; }

 private:
  const std::string& given_;
  std::string name_;
  bool is_kept_ = false;
};

void write_at_exit() {
  const std::lock_guard lock(scheduler::mutex_of(scheduler::ProcessLock::traces));
  for (const Tracer* tracer : registry().live) {
    try {
      (void)tracer->write();
    } catch (...) {  // no memory for the text
    }
  }
}

const char* phase_name(kernels::Phase phase) {
  switch (phase) {
    case kernels::Phase::queries:
      return "pack queries";
    case kernels::Phase::pack:
      return "pack";
    case kernels::Phase::scores:
      return "scores";
    case kernels::Phase::softmax:
      return "softmax";
    case kernels::Phase::values:
      return "values";
    case kernels::Phase::decode:
      return "decode";
    case kernels::Phase::merge:
      return "merge";
    case kernels::Phase::store:
      return "store";
  }
  return "?";
}

// One event per line. No name comes from a user, so nothing needs escaping.
class Writer {
 public:
  explicit Writer(const TickClock::Scale& scale) : scale_(scale) {}

  void metadata(const char* kind, std::size_t process, long thread, const std::string& argument) {
    open(kind, "M", process, thread);
    text_ += ", \"args\": {" + argument + "}}";
  }
  void span(const std::string& name, const char* category, std::size_t process, long thread,
            std::int64_t begin, std::int64_t end, const std::string& arguments) {
    open(name, "X", process, thread);
    text_ += ", \"cat\": \"" + std::string(category) + "\", \"ts\": " + microseconds(scale_.ns(begin)) +
             ", \"dur\": " + microseconds(scale_.ns(end) - scale_.ns(begin));
    if (!arguments.empty()) text_ += ", \"args\": {" + arguments + "}";
    text_ += "}";
  }
  // Calls may overlap, so each is an asynchronous pair of events.
  void call(std::int32_t number, std::size_t process, std::int64_t begin, std::int64_t end) {
    for (const bool is_begin : {true, false}) {
      open("run " + std::to_string(number), is_begin ? "b" : "e", process, 0);
      text_ += ", \"cat\": \"run\", \"id\": " + std::to_string(number) +
               ", \"ts\": " + microseconds(scale_.ns(is_begin ? begin : end)) + "}";
    }
  }
  std::string take() { return std::move(text_); }

 private:
  void open(const std::string& name, const char* type, std::size_t process, long thread) {
    text_ += text_.empty() ? "\n" : ",\n";
    text_ += "{\"name\": \"" + name + "\", \"ph\": \"" + type + "\", \"pid\": " + std::to_string(process) +
             ", \"tid\": " + std::to_string(thread);
  }
  static std::string microseconds(std::int64_t ns) {
    char text[32];
    std::snprintf(text, sizeof text, "%lld.%03lld", static_cast<long long>(ns / 1000),
                  static_cast<long long>(ns % 1000));
    return text;
  }

  TickClock::Scale scale_;
  std::string text_;
};

struct Interval {
  std::int64_t begin, end;
};

// The union of the intervals, sorted: those that touch become one.
std::vector<Interval> united(std::vector<Interval> intervals) {
  std::sort(intervals.begin(), intervals.end(),
            [](const Interval& a, const Interval& b) { return a.begin < b.begin; });
  std::vector<Interval> result;
  for (const Interval& next : intervals) {
    if (!result.empty() && next.begin <= result.back().end) {
      result.back().end = std::max(result.back().end, next.end);
    } else {
      result.push_back(next);
    }
  }
  return result;
}

// The parts of `wanted` outside `taken`; both from united().
std::vector<Interval> without(const std::vector<Interval>& wanted, const std::vector<Interval>& taken) {
  std::vector<Interval> gaps;
  std::size_t next = 0;
  for (const Interval& whole : wanted) {
    std::int64_t at = whole.begin;
    while (next < taken.size() && taken[next].end <= at) ++next;
    for (std::size_t i = next; i < taken.size() && taken[i].begin < whole.end; ++i) {
      if (taken[i].begin > at) gaps.push_back({at, taken[i].begin});
      at = std::max(at, taken[i].end);
    }
    if (at < whole.end) gaps.push_back({at, whole.end});
  }
  return gaps;
}

/// ", KV head 3", ", KV heads 0 to 7"
std::string heads_of(const TracedTask& task) {
  const std::string first = std::to_string(task.kv_head);
  if (task.kv_heads <= 1) return ", KV head " + first;
  return ", KV heads " + first + " to " + std::to_string(task.kv_head + task.kv_heads - 1);
}

}  // namespace

std::unique_ptr<Tracer> Tracer::create(const std::string& file, const scheduler::Topology& topology,
                                       const std::vector<scheduler::Seat>& seats, std::string& error) {
  FileName name(file);
  std::unique_ptr<Tracer> tracer(new Tracer(name.get(), topology, seats));
  error = tracer->write();  // an empty trace, to find out now whether the file can be written
  if (!error.empty()) {
    tracer->process_ = 0;  // nothing to be written
    return nullptr;
  }
  const std::lock_guard lock(scheduler::mutex_of(scheduler::ProcessLock::traces));
  static const bool registered = std::atexit(write_at_exit) == 0;
  (void)registered;
  registry().live.push_back(tracer.get());
  name.keep();
  return tracer;
}

Tracer::Tracer(std::string file, const scheduler::Topology& topology,
               const std::vector<scheduler::Seat>& seats)
    : file_(std::move(file)),
      domains_(topology.domains),
      lanes_(new Lane[seats.size()]),
      num_lanes_(seats.size()),
      process_(getpid()) {
  for (std::size_t slot = 0; slot < num_lanes_; ++slot) {
    lanes_[slot].seat = seats[slot];
    // Not initialised: a page is touched only when events are recorded.
    lanes_[slot].tasks = std::make_unique_for_overwrite<TracedTask[]>(kMostTasks);
    lanes_[slot].phases = std::make_unique_for_overwrite<std::uint64_t[]>(kMostPhases);
  }
  runs_.reserve(kMostRuns);
}

Tracer::~Tracer() {
  {
    const std::lock_guard lock(scheduler::mutex_of(scheduler::ProcessLock::traces));
    std::erase(registry().live, this);
  }
  try {
    (void)write();
  } catch (...) {  // no memory for the text
  }
}

void Tracer::add_run(std::int32_t run, std::int64_t begin, std::int64_t end) noexcept {
  const std::lock_guard lock(runs_mutex_);
  if (runs_.size() < kMostRuns) runs_.push_back({run, begin, end});
}

std::string Tracer::to_json() const {
  const TickClock::Scale scale(clock_);
  Writer writer(scale);
  std::vector<Interval> calls;
  const std::size_t callers = domains_.size();
  writer.metadata("process_name", callers, 0, "\"name\": \"calls\"");
  {
    const std::lock_guard lock(runs_mutex_);
    for (const Run& run : runs_) {
      writer.call(run.number, callers, run.begin, run.end);
      calls.push_back({run.begin, run.end});
    }
  }
  calls = united(std::move(calls));
  std::int64_t dropped = 0, local = 0, remote = 0;
  for (std::size_t d = 0; d < domains_.size(); ++d) {
    writer.metadata("process_name", d, 0,
                    "\"name\": \"domain " + std::to_string(d) + ", NUMA node " +
                        std::to_string(domains_[d].numa_node) + "\"");
    writer.metadata("process_sort_index", d, 0, "\"sort_index\": " + std::to_string(d));
  }
  for (std::size_t slot = 0; slot < num_lanes_; ++slot) {
    const Lane& lane = lanes_[slot];
    const auto process = static_cast<std::size_t>(lane.seat.domain);
    const auto thread = static_cast<long>(slot);
    writer.metadata("thread_name", process, thread,
                    "\"name\": \"CPU " + std::to_string(lane.seat.os_cpu) + "\"");
    writer.metadata("thread_sort_index", process, thread, "\"sort_index\": " + std::to_string(slot));
    const std::int64_t count = lane.num_tasks.load(std::memory_order_acquire);
    dropped += lane.dropped.load(std::memory_order_relaxed);
    std::vector<Interval> busy;
    for (std::int64_t i = 0; i < count; ++i) {
      const TracedTask& task = lane.tasks[static_cast<std::size_t>(i)];
      const std::uint64_t* phases = &lane.phases[static_cast<std::size_t>(task.first_phase)];
      for (std::int64_t p = 0; p < task.phases; ++p) {
        const auto begin_of = [&](std::int64_t at) {
          return start() + static_cast<std::int64_t>(phases[at] >> 8);
        };
        writer.span(phase_name(static_cast<kernels::Phase>(phases[p] & 0xff)), "phase", process, thread,
                    begin_of(p), p + 1 < task.phases ? begin_of(p + 1) : task.phases_end, "");
      }
      busy.push_back({task.begin, task.end});
      if (task.is_append()) {
        writer.span(
            "tokens " + std::to_string(task.first_token) + " to " + std::to_string(task.end_token - 1),
            "task", process, thread, task.begin, task.end,
            "\"run\": " + std::to_string(task.run) + ", \"task\": " + std::to_string(task.task) +
                ", \"written_bytes\": " + std::to_string(task.bytes) +
                (task.home < 0 ? "" : ", \"page_domain\": " + std::to_string(task.home)));
        continue;
      }
      const bool is_local = task.home == lane.seat.domain;
      (is_local ? local : remote) += task.bytes;
      writer.span("sequence " + std::to_string(task.batch) + heads_of(task), "task", process, thread,
                  task.begin, task.end,
                  "\"run\": " + std::to_string(task.run) + ", \"task\": " + std::to_string(task.task) +
                      ", \"" + (is_local ? "local" : "remote") + "_bytes\": " + std::to_string(task.bytes));
    }
    for (const Interval& gap : without(calls, united(std::move(busy)))) {
      if (scale.ns(gap.end) - scale.ns(gap.begin) >= kLeastIdle)
        writer.span("idle", "idle", process, thread, gap.begin, gap.end, "");
    }
  }
  return "{\"displayTimeUnit\": \"ns\", \"otherData\": {\"local_bytes\": " + std::to_string(local) +
         ", \"remote_bytes\": " + std::to_string(remote) +
         ", \"dropped_events\": " + std::to_string(dropped) + "}, \"traceEvents\": [" + writer.take() +
         "\n]}\n";
}

std::string Tracer::write() const {
  if (getpid() != process_) return "";
  const std::lock_guard lock(write_mutex_);  // All calls write the same temporary file.
  const std::string text = to_json();
  const std::string beside = file_ + "." + std::to_string(process_) + ".tmp";
  std::FILE* out = std::fopen(beside.c_str(), "w");
  if (!out) return std::string(std::strerror(errno));
  bool done = std::fwrite(text.data(), 1, text.size(), out) == text.size();
  int why = errno;
  if (std::fclose(out) != 0 && done) {
    done = false;
    why = errno;
  }
  if (done && std::rename(beside.c_str(), file_.c_str()) != 0) {
    done = false;
    why = errno;
  }
  if (done) return "";
  std::remove(beside.c_str());
  return std::string(std::strerror(why));
}

// If a task is dropped, so are its phases.
TaskTrace::TaskTrace(Tracer* tracer, int slot, const TracedTask& task) noexcept
    : kernels::PhaseWatch{enter_phase},
      tracer_(tracer),
      lane_(tracer ? &tracer->lane(slot) : nullptr),
      dropped_(0),
      task_(task) {
  if (!lane_) return;
  task_.first_phase = lane_->num_phases;
  task_.phases = task_.phases_end = 0;
  room_ = lane_->num_tasks.load(std::memory_order_relaxed) == Tracer::kMostTasks
              ? 0
              : Tracer::kMostPhases - lane_->num_phases;
  task_.begin = tracer_->now();
}

TaskTrace::~TaskTrace() {
  if (!lane_) return;
  task_.end = tracer_->now();
  if (dropped_ == 0) task_.phases_end = task_.end;
  lane_->num_phases += task_.phases;
  const std::int64_t count = lane_->num_tasks.load(std::memory_order_relaxed);
  if (count == Tracer::kMostTasks) {
    ++dropped_;
  } else {
    lane_->tasks[static_cast<std::size_t>(count)] = task_;
    lane_->num_tasks.store(count + 1, std::memory_order_release);
  }
  if (dropped_ > 0) lane_->dropped.fetch_add(dropped_, std::memory_order_relaxed);
}

// Must be cheap, as prefill enters a phase every 8 us: one clock reading and one store of 8 bytes.
void TaskTrace::enter_phase(kernels::PhaseWatch* self, kernels::Phase phase) noexcept {
  auto& trace = *static_cast<TaskTrace*>(self);
  const std::int64_t at = trace.tracer_->now();
  TracedTask& task = trace.task_;
  if (task.phases == trace.room_) {
    if (trace.dropped_++ == 0) task.phases_end = at;
    return;
  }
  trace.lane_->phases[static_cast<std::size_t>(task.first_phase + task.phases++)] =
      static_cast<std::uint64_t>(at - trace.tracer_->start()) << 8 | static_cast<std::uint64_t>(phase);
}

}  // namespace kumiko
