// SPDX-License-Identifier: Apache-2.0
// WorkerPool, by interleavings: that no wake-up is lost, no slot is lost, no slot is idle while there is
// work, nobody looks at a job that is gone, and whoever waits longest is first.
#include "tests/scheduler/interleaving.h"
// After the header that its atomics come from.
#include "scheduler/worker_pool.h"

namespace kumiko::scheduler {
namespace {

using test::Interleaving;

// Cores in two domains by turns.
Topology machine_of(int cores) {
  Topology topology;
  topology.is_host = false;
  topology.domains.resize(cores > 1 ? 2 : 1);
  for (int cpu = 0; cpu < cores; ++cpu)
    topology.domains[static_cast<std::size_t>(cpu) % topology.domains.size()].cores.push_back({cpu});
  return topology;
}

// A pool whose foreign workers, if it has any, are called and come back as those of executor_tbb.cpp.
class ForeignPool final : public WorkerPool {
 public:
  ForeignPool(int slots, int foreign)
      : WorkerPool({machine_of(slots), slots, Bind::none, std::chrono::microseconds(0)},
                   seat_workers(machine_of(slots), slots, Bind::none)),
        slots_(slots),
        foreign_workers_(foreign) {}

  void visit_until_over() {
    for (;;) {
      sent_.wait(0);
      if (over_.load()) return;
      int sent = sent_.load();
      if (sent == 0 || !sent_.compare_exchange_strong(sent, sent - 1)) continue;
      do {
        for (int slot = 0; slot < slots_; ++slot) {
          while (claim_seat(slot)) {
            wake_some(slot);
            serve(slot);
          }
        }
        invited_.fetch_sub(1);
      } while (has_work() && any_idle() && count_in());
    }
  }
  void end_visits() {
    over_.store(true);
    sent_.fetch_add(2 * slots_);  // A foreign worker takes at most one that says so.
    sent_.notify_all();
  }

  bool any_idle() const {
    for (int slot = 0; slot < slots_; ++slot) {
      if (is_idle(slot)) return true;
    }
    return false;
  }

 private:
  void wake_some(int near_seat) noexcept override {
    if (foreign_workers_ == 0) return WorkerPool::wake_some(near_seat);
    if (!count_in()) return;
    sent_.fetch_add(1);
    sent_.notify_one();
  }
  bool count_in() noexcept {
    int invited = invited_.load();
    while (invited < foreign_workers_) {
      if (invited_.compare_exchange_strong(invited, invited + 1)) return true;
    }
    return false;
  }

  const int slots_;
  const int foreign_workers_;
  std::atomic<int> invited_{0};  // Under way and here.
  std::atomic<int> sent_{0};     // Under way.
  std::atomic<bool> over_{false};
};

struct Cast {
  int slots, callers, calls, tasks;
  enum { nobody, workers, foreign } helpers = nobody;
  int num_guests = 0;  // 0: one for each slot
};

const auto kName = [](const auto& row) {
  const Cast& cast = row.param;
  const char* const helpers[] = {"nobody", "workers", "foreign"};
  return "slots" + std::to_string(cast.slots) + "_callers" + std::to_string(cast.callers) + "_calls" +
         std::to_string(cast.calls) + "_tasks" + std::to_string(cast.tasks) + "_" + helpers[cast.helpers] +
         (cast.num_guests > 0 ? std::to_string(cast.num_guests) : "");
};

Assignment one_list(int tasks) {
  Assignment assignment;
  assignment.domain_begin = {0, tasks};
  assignment.order.resize(static_cast<std::size_t>(tasks));
  std::iota(assignment.order.begin(), assignment.order.end(), 0);
  return assignment;
}

struct Play {
  explicit Play(const Cast& who)
      : cast(who),
        pool(cast.slots, cast.helpers == Cast::foreign ? num_helpers() : 0),
        assignment(one_list(cast.tasks)),
        working(static_cast<std::size_t>(cast.slots)) {}

  struct Call {
    Play& play;
    std::vector<int> times_run;
    static void body(void* context, std::int32_t task, const Slot& slot) noexcept {
      auto& call = *static_cast<Call*>(context);
      int& working = call.play.working[static_cast<std::size_t>(slot.index)];
      call.play.faults += ++working != 1;
      Interleaving::step();
      ++call.times_run[static_cast<std::size_t>(task)];
      --working;
    }
  };

  void caller() {
    for (int i = 0; i < cast.calls; ++i) {
      Call call{*this, std::vector<int>(static_cast<std::size_t>(cast.tasks), 0)};
      Job job{&assignment, Call::body, &call, 0};
      pool.run(job);
      // Who looks at the job from now on ends the process by a segmentation fault.
      job.assignment = nullptr;
      for (const int times : call.times_run) faults += times != 1;
      Interleaving::step();
    }
    end_of_caller();
  }

  int num_helpers() const {
    if (cast.helpers == Cast::nobody) return 0;
    return cast.num_guests > 0 ? cast.num_guests : cast.slots;
  }

  void end_of_caller() {
    if (++callers_gone < cast.callers) return;
    if (cast.helpers == Cast::workers) pool.stop();
    if (cast.helpers == Cast::foreign) pool.end_visits();
  }

  std::string run(std::uint64_t seed) {
    Interleaving interleaving(seed);
    for (int c = 0; c < cast.callers; ++c) interleaving.add([this] { caller(); });
    add_helpers(interleaving);
    return interleaving.run();
  }

  void add_helpers(Interleaving& interleaving) {
    for (int slot = 0; slot < num_helpers(); ++slot) {
      interleaving.add(
          [this, slot] { cast.helpers == Cast::workers ? pool.work(slot) : pool.visit_until_over(); });
    }
  }

  const Cast cast;
  ForeignPool pool;
  Assignment assignment;
  std::vector<int> working;  // Tasks in each slot.
  int faults = 0;
  int callers_gone = 0;
};

class Interleavings : public testing::TestWithParam<Cast> {};

TEST_P(Interleavings, EveryCallEndsAndEverySlotComesBack) {
  for (int i = 0; i < test::sweep_size(4000); ++i) {
    const std::uint64_t seed = test::test_seed(5000) + static_cast<std::uint64_t>(i);
    SCOPED_TRACE("seed " + std::to_string(seed));
    Play play(GetParam());
    ASSERT_EQ(play.run(seed), "");
    ASSERT_EQ(play.faults, 0) << "a slot shared, or a task not run once when its caller went on";
    ASSERT_FALSE(play.pool.has_work());
    for (int slot = 0; slot < GetParam().slots; ++slot) ASSERT_TRUE(play.pool.is_idle(slot)) << slot;
  }
}

INSTANTIATE_TEST_SUITE_P(Casts, Interleavings,
                         testing::Values(Cast{1, 2, 1, 1}, Cast{1, 3, 2, 2}, Cast{2, 3, 2, 1},
                                         Cast{2, 4, 1, 2}, Cast{1, 2, 1, 1, Cast::workers},
                                         Cast{2, 1, 3, 2, Cast::workers}, Cast{2, 3, 2, 2, Cast::workers},
                                         Cast{5, 2, 2, 6, Cast::workers}, Cast{1, 3, 2, 1, Cast::foreign},
                                         Cast{2, 3, 2, 2, Cast::foreign}, Cast{3, 2, 2, 4, Cast::foreign}),
                         kName);

// Tasks that wait for each other, and `calls` of the callers have jobs that are soon over: whatever slots
// those leave are wanted.
struct Meeting {
  static void body(void* context, std::int32_t, const Slot&) noexcept {
    auto& meeting = *static_cast<Meeting*>(context);
    const int present = meeting.present.fetch_add(1) + 1;
    if (present == meeting.parties) meeting.present.notify_all();
    for (int seen = present; seen < meeting.parties; seen = meeting.present.load())
      meeting.present.wait(seen);
  }
  int parties;
  std::atomic<int> present{0};
};

class SideBySide : public testing::TestWithParam<Cast> {};

TEST_P(SideBySide, NoSlotIsIdleWhileThereIsWork) {
  for (int i = 0; i < test::sweep_size(4000); ++i) {
    const std::uint64_t seed = test::test_seed(6000) + static_cast<std::uint64_t>(i);
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Cast& cast = GetParam();
    Play play(cast);
    Meeting meeting{cast.slots};
    Interleaving interleaving(seed);
    const auto call = [&](int tasks, auto body) {
      const Assignment assignment = one_list(tasks);
      play.pool.run({&assignment, body, &meeting, 0});
      play.end_of_caller();
    };
    // Each of the others brings one task, the last of them the rest.
    const int others = cast.callers - cast.calls;
    for (int c = 1; c <= others; ++c) {
      const int tasks = c < others ? 1 : cast.slots - c + 1;
      interleaving.add([&, tasks] { call(tasks, Meeting::body); });
    }
    for (int c = 0; c < cast.calls; ++c) {
      interleaving.add(
          [&] { call(1, [](void*, std::int32_t, const Slot&) noexcept { Interleaving::step(); }); });
    }
    play.add_helpers(interleaving);
    ASSERT_EQ(interleaving.run(), "");
  }
}

INSTANTIATE_TEST_SUITE_P(
    Casts, SideBySide,
    testing::Values(Cast{1, 2, 1, 1}, Cast{2, 3, 1, 1}, Cast{3, 4, 1, 1}, Cast{2, 3, 1, 1, Cast::workers},
                    Cast{3, 2, 1, 1, Cast::workers}, Cast{8, 2, 1, 1, Cast::workers},
                    Cast{3, 3, 1, 1, Cast::workers}, Cast{2, 2, 1, 1, Cast::foreign},
                    Cast{2, 3, 1, 1, Cast::foreign}, Cast{3, 3, 1, 1, Cast::foreign},
                    Cast{4, 3, 1, 1, Cast::foreign}, Cast{2, 3, 2, 1, Cast::foreign, 1},
                    Cast{2, 5, 4, 1, Cast::foreign, 1}, Cast{3, 4, 2, 1, Cast::foreign, 2},
                    Cast{3, 6, 4, 1, Cast::foreign, 2}, Cast{4, 6, 4, 1, Cast::foreign, 3}),
    kName);

// The first caller lets the second and then the third fall asleep, and calls again at once. The second lets
// that call fall asleep, too.
TEST(Waiting, WhoeverWaitsLongestIsFirst) {
  for (int i = 0; i < test::sweep_size(1000); ++i) {
    const std::uint64_t seed = test::test_seed(7000) + static_cast<std::uint64_t>(i);
    SCOPED_TRACE("seed " + std::to_string(seed));
    Play play({1, 1, 1, 1});
    if (i % 2 == 0) play.pool.serve(0);  // A foreign worker who found nothing and has gone.
    struct Queue {
      std::vector<int> order;
      bool is_third_wanted = false;
    } queue;
    struct Turn {
      Queue& queue;
      int number;
      static void body(void* context, std::int32_t, const Slot&) noexcept {
        const Turn& turn = *static_cast<Turn*>(context);
        turn.queue.order.push_back(turn.number);
        if (turn.number > 2) return;
        if (turn.number == 1) {
          while (Interleaving::asleep() < 1) Interleaving::step();
          turn.queue.is_third_wanted = true;
        }
        while (Interleaving::asleep() < 2) Interleaving::step();
      }
    };
    const auto call = [&](int number) {
      const Assignment assignment = one_list(1);
      Turn turn{queue, number};
      play.pool.run({&assignment, Turn::body, &turn, 0});
    };
    Interleaving interleaving(seed);
    interleaving.add([&] {
      call(1);
      call(4);
    });
    interleaving.add([&] {
      while (queue.order.empty()) Interleaving::step();
      call(2);
    });
    interleaving.add([&] {
      while (!queue.is_third_wanted) Interleaving::step();
      call(3);
    });
    ASSERT_EQ(interleaving.run(), "");
    ASSERT_EQ(queue.order, (std::vector<int>{1, 2, 3, 4}));
  }
}

// More callers than there are job slots.
TEST(Waiting, WhoeverWaitsForAPostIsWoken) {
  for (int i = 0; i < test::sweep_size(100); ++i) {
    const std::uint64_t seed = test::test_seed(8000) + static_cast<std::uint64_t>(i);
    SCOPED_TRACE("seed " + std::to_string(seed));
    Play play({2, 70, 1, 1, i % 2 == 0 ? Cast::workers : Cast::nobody});
    ASSERT_EQ(play.run(seed), "");
    ASSERT_EQ(play.faults, 0);
  }
}

}  // namespace
}  // namespace kumiko::scheduler
