// Callers and workers over one set of slots: what all executors share.
//
// A caller claims an idle slot and works on its own job; workers, each tied to one slot, take from all posted
// jobs, oldest first, whenever their slot is idle. So a slot is what allows a thread to run, and there are
// never more running threads than slots, however many callers. A caller that finds others at work leaves its
// job to the workers and sleeps until it is done; where there are none (serial executor), until another
// caller hands its slot over: slots go to the oldest sleeper, so that callers who come again and again do not
// starve it.
//
// Workers either stay for the crew's life (work()) or are guests (sit_down(), serve()): another library's
// threads, which come when they are called and may not come at all. Nobody relies on a guest: callers do not
// leave their jobs to them, and a caller alone can finish its own.
//
// A job lives on its caller's stack, so nobody may look at it once the caller has left. `live_` has one bit
// per posted job with tasks left to take; a worker first counts itself into the post's `readers` and then
// looks at the bit; the caller first sees the bit cleared and then waits for `readers` to become 0. One of
// the two always sees the other. Everything here that decides about sleeping is such a pair of "announce,
// then look", which is why these atomics are sequentially consistent.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "scheduler/slots.h"
#include "scheduler/task_bag.h"

namespace kumiko::scheduler {

class Crew {
 public:
  Crew(const ExecutorOptions& options, const std::vector<Seat>& seats);
  virtual ~Crew() = default;

  bool reserve(std::size_t bytes) noexcept { return slots_.reserve(bytes); }
  /// Executor::run.
  bool run(const Job& job) noexcept;

  /// The life of the worker of slot `seat`, until stop(). At most one thread per seat.
  void work(int seat) noexcept;
  void stop() noexcept;

  /// For a guest: claims `slot` if it is idle and there is something to do; it then has to serve() in it.
  bool sit_down(int slot) noexcept;
  /// Takes tasks of all posted jobs until none is left, and gives the slot back. A guest then looks once
  /// more: a caller that was posting its job meanwhile may have found all slots taken and gone to sleep.
  void serve(int slot) noexcept;
  bool has_work() const noexcept { return live_.load() != 0; }
  bool is_idle(int slot) const noexcept { return slots_.is_idle(slot); }

 protected:
  /// There may be work for more threads, who are wanted near this seat first: wakes some of them, each of
  /// whom does the same.
  virtual void rouse_some(int near_seat) noexcept;

 private:
  static constexpr int kMaxPosts = 64;  // Bits of live_. More callers than that wait for a post.
  static constexpr int kNoSlot = -1;    // As a Post's grant: the caller has no slot and would take one.
  static constexpr int kNotWaiting = -2;

  struct alignas(kLineBytes) Post {
    std::atomic<TaskBag*> bag{nullptr};
    std::atomic<std::uint64_t> ticket{0};  // Rises with the time of posting.
    std::atomic<int> grant{kNotWaiting};   // A slot handed to the caller, already claimed for it.
    alignas(kLineBytes) std::atomic<int> readers{0};
    std::atomic<std::uint32_t> bell{0};  // Rung when the caller should look around.
  };
  enum Mood : int { kAbsent, kAwake, kAsleep };
  struct alignas(kLineBytes) Worker {
    std::atomic<int> mood{kAbsent};
  };

  // Callers.
  int take_post() noexcept;
  void publish(int post, TaskBag& bag) noexcept;
  bool is_done(int post) const noexcept;
  int wait_for_slot(int post) noexcept;
  void wait_until_done(int post, int slot) noexcept;
  // Workers.
  void drain_live(int slot) noexcept;
  bool has_work_for(int seat) const noexcept;
  // Both.
  void mark_exhausted(int post) noexcept;
  void release(int slot) noexcept;
  void ring(Post& post) noexcept;
  template <class Accept>
  int oldest_live(Accept accept) const noexcept;
  int oldest_waiting() const noexcept;
  bool rouse(int seat) noexcept;

  template <class Predicate>
  bool spin_until(Predicate is_true) const noexcept;

  Slots slots_;
  const std::chrono::microseconds spin_;
  std::vector<Worker> workers_;
  std::unique_ptr<Post[]> posts_;
  alignas(kLineBytes) std::atomic<std::uint64_t> live_{0};
  alignas(kLineBytes) std::atomic<std::uint64_t> free_posts_{~std::uint64_t{0}};
  std::atomic<std::uint64_t> next_ticket_{0};
  alignas(kLineBytes) std::atomic<int> sleepers_{0};
  std::atomic<int> workers_present_{0};
  std::atomic<int> guests_{0};  // Seated ones.
  std::atomic<bool> stopping_{false};
};

}  // namespace kumiko::scheduler
