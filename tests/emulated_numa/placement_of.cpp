// SPDX-License-Identifier: Apache-2.0
#include "tests/emulated_numa/placement_of.h"

#include <numaif.h>
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <numeric>

namespace kumiko::test {
namespace {

struct Meeting {
  scheduler::Executor& executor;
  std::size_t scratch_bytes;
  std::vector<SlotReport> reports;
  pid_t caller = gettid();
  std::atomic<int> present{0};

  static void body(void* context, std::int32_t, const scheduler::Slot& slot) noexcept {
    auto& meeting = *static_cast<Meeting*>(context);
    SlotReport& report = meeting.reports[static_cast<std::size_t>(slot.index)];
    report.came = true;
    report.is_caller = gettid() == meeting.caller;
    report.domain = slot.domain;
    report.cpu = sched_getcpu();
    report.scratch = slot.scratch;
    std::memset(slot.scratch, 0x5a, meeting.scratch_bytes);
    cpu_set_t mask;
    CPU_ZERO(&mask);
    sched_getaffinity(0, sizeof mask, &mask);
    report.allowed_cpus = CPU_COUNT(&mask);
    const int seat = meeting.executor.seats()[static_cast<std::size_t>(slot.index)].os_cpu;
    report.is_on_seat = report.allowed_cpus == 1 && CPU_ISSET(seat, &mask) && report.cpu == seat;
    // Sleeps instead of spinning: the emulator runs each busy core for 100 ms before the next.
    const int parties = meeting.executor.concurrency();
    int seen = meeting.present.fetch_add(1) + 1;
    if (seen == parties) meeting.present.notify_all();
    for (; seen < parties; seen = meeting.present.load()) meeting.present.wait(seen);
  }
};

}  // namespace

std::vector<int> nodes_of_pages(const void* data, std::size_t bytes) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<std::uintptr_t>(data) / page * page;
  const auto end = reinterpret_cast<std::uintptr_t>(data) + bytes;
  std::vector<void*> pages;
  for (std::uintptr_t at = first; at < end; at += page) pages.push_back(reinterpret_cast<void*>(at));
  std::vector<int> nodes(pages.size(), -ENOSYS);
  if (move_pages(0, pages.size(), pages.data(), nullptr, nodes.data(), 0) != 0)
    nodes.assign(pages.size(), -errno);
  return nodes;
}

::testing::AssertionResult is_on_node(const void* data, std::size_t bytes, int node) {
  const std::vector<int> nodes = nodes_of_pages(data, bytes);
  std::size_t wrong = 0, first_wrong = 0;
  for (std::size_t i = nodes.size(); i-- > 0;) {
    if (nodes[i] == node) continue;
    ++wrong;
    first_wrong = i;
  }
  if (wrong == 0 && !nodes.empty()) return ::testing::AssertionSuccess();
  if (nodes.empty()) return ::testing::AssertionFailure() << "no pages to look at";
  return ::testing::AssertionFailure() << wrong << " of " << nodes.size() << " pages are not on node " << node
                                       << "; page " << first_wrong << " is on " << nodes[first_wrong];
}

std::vector<SlotReport> meet(scheduler::Executor& executor, std::size_t scratch_bytes) {
  const int n = executor.concurrency();
  Meeting meeting{executor, scratch_bytes, std::vector<SlotReport>(static_cast<std::size_t>(n))};
  scheduler::Assignment assignment;
  assignment.order.resize(static_cast<std::size_t>(n));
  std::iota(assignment.order.begin(), assignment.order.end(), 0);
  assignment.domain_begin = {0};
  for (const int workers : executor.workers_per_domain())
    assignment.domain_begin.push_back(assignment.domain_begin.back() + workers);
  EXPECT_TRUE(executor.run({&assignment, Meeting::body, &meeting, scratch_bytes}));
  return meeting.reports;
}

}  // namespace kumiko::test
