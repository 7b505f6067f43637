// Crew, by interleavings: that no wake-up is lost, no slot is lost, nobody looks at a job that is gone, and
// whoever waits longest is first.
#include "tests/scheduler/interleaving.h"
// After the header that its atomics come from.
#include "scheduler/crew.h"

namespace kumiko::scheduler {
namespace {

using test::Interleaving;

Topology machine_of(int cores) {
  Topology topology;
  topology.is_host = false;
  topology.domains.emplace_back();
  for (int cpu = 0; cpu < cores; ++cpu) topology.domains[0].cores.push_back({cpu});
  return topology;
}

// A crew whose guests, if it has any, are called and come back as those of executor_tbb.cpp.
class GuestCrew final : public Crew {
 public:
  GuestCrew(int slots, bool has_guests)
      : Crew({machine_of(slots), slots, Bind::none, std::chrono::microseconds(0)},
             seat_workers(machine_of(slots), slots, Bind::none)),
        slots_(slots),
        has_guests_(has_guests) {}

  void visit_until_over() {
    for (;;) {
      sent_.wait(0);
      if (over_.load()) return;
      int sent = sent_.load();
      if (sent == 0 || !sent_.compare_exchange_strong(sent, sent - 1)) continue;
      do {
        for (int slot = 0; slot < slots_; ++slot) {
          while (sit_down(slot)) serve(slot);
        }
        invited_.fetch_sub(1);
      } while (has_work() && any_idle() && count_in());
    }
  }
  void end_visits() {
    over_.store(true);
    sent_.fetch_add(2 * slots_);  // A guest takes at most one that says so.
    sent_.notify_all();
  }

  bool any_idle() const {
    for (int slot = 0; slot < slots_; ++slot) {
      if (is_idle(slot)) return true;
    }
    return false;
  }

 private:
  void rouse_some(int near_seat) noexcept override {
    if (!has_guests_) return Crew::rouse_some(near_seat);
    if (!count_in()) return;
    sent_.fetch_add(1);
    sent_.notify_one();
  }
  bool count_in() noexcept {
    int invited = invited_.load();
    return invited < slots_ && invited_.compare_exchange_strong(invited, invited + 1);
  }

  const int slots_;
  const bool has_guests_;
  std::atomic<int> invited_{0};  // Under way and here.
  std::atomic<int> sent_{0};     // Under way.
  std::atomic<bool> over_{false};
};

struct Cast {
  int slots, callers, calls, tasks;
  enum { nobody, workers, guests } helpers = nobody;

  friend void PrintTo(const Cast& cast, std::ostream* out) {
    *out << cast.slots << " slots, " << cast.callers << " callers, " << cast.calls << " calls of "
         << cast.tasks << " tasks, helpers " << cast.helpers;
  }
};

struct Play {
  explicit Play(const Cast& who)
      : cast(who), crew(cast.slots, cast.helpers == Cast::guests), working(cast.slots) {
    assignment.domain_begin = {0, cast.tasks};
    assignment.order.resize(static_cast<std::size_t>(cast.tasks));
    std::iota(assignment.order.begin(), assignment.order.end(), 0);
  }

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
      crew.run(job);
      // Who looks at the job from now on ends the process by a segmentation fault.
      job.assignment = nullptr;
      for (const int times : call.times_run) faults += times != 1;
      Interleaving::step();
    }
    if (++callers_gone < cast.callers) return;
    if (cast.helpers == Cast::workers) crew.stop();
    if (cast.helpers == Cast::guests) crew.end_visits();
  }

  std::string run(std::uint64_t seed) {
    Interleaving interleaving(seed);
    for (int c = 0; c < cast.callers; ++c) interleaving.add([this] { caller(); });
    for (int slot = 0; slot < cast.slots && cast.helpers != Cast::nobody; ++slot) {
      interleaving.add(
          [this, slot] { cast.helpers == Cast::workers ? crew.work(slot) : crew.visit_until_over(); });
    }
    return interleaving.run();
  }

  const Cast cast;
  GuestCrew crew;
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
    ASSERT_FALSE(play.crew.has_work());
    for (int slot = 0; slot < GetParam().slots; ++slot) ASSERT_TRUE(play.crew.is_idle(slot)) << slot;
  }
}

INSTANTIATE_TEST_SUITE_P(Casts, Interleavings,
                         testing::Values(Cast{1, 2, 1, 1}, Cast{1, 3, 2, 2}, Cast{2, 3, 2, 1},
                                         Cast{2, 4, 1, 2}, Cast{1, 2, 1, 1, Cast::workers},
                                         Cast{2, 1, 3, 2, Cast::workers}, Cast{2, 3, 2, 2, Cast::workers},
                                         Cast{5, 2, 2, 6, Cast::workers}, Cast{1, 3, 2, 1, Cast::guests},
                                         Cast{2, 3, 2, 2, Cast::guests}, Cast{3, 2, 2, 4, Cast::guests}));

}  // namespace
}  // namespace kumiko::scheduler
