// SPDX-License-Identifier: Apache-2.0
// In which order one thread takes the tasks of a job, whatever domain it sits in.
#include "scheduler/task_bag.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace kumiko::scheduler {
namespace {

// The order in which a slot of `domain` takes the tasks of a job that has one for each of `domains`.
std::vector<int> order_of(int domain, int domains) {
  Assignment assignment;
  assignment.domain_begin.resize(static_cast<std::size_t>(domains) + 1);
  std::iota(assignment.domain_begin.begin(), assignment.domain_begin.end(), 0);
  assignment.order.resize(static_cast<std::size_t>(domains));
  std::iota(assignment.order.begin(), assignment.order.end(), 0);
  std::vector<int> taken;
  const Job job{&assignment,
                [](void* context, std::int32_t task, const Slot&) noexcept {
                  static_cast<std::vector<int>*>(context)->push_back(task);
                },
                &taken, 0};
  TaskBag bag(job);
  bag.drain({.index = 0, .domain = domain});
  return taken;
}

// Up to 32 domains have a list each; of more, neighbours share one.
TEST(TaskBag, TheListWithTheOwnDomainComesFirstAndThenTheOthersInOrder) {
  for (const int domains : {1, 2, 31, 32, 33, 40, 63, 64, 65, 100}) {
    const int most_in_a_list = (domains + 31) / 32;
    for (int domain = 0; domain < domains; ++domain) {
      std::vector<int> taken = order_of(domain, domains);
      const auto own = std::find(taken.begin(), taken.end(), domain);
      EXPECT_LT(own - taken.begin(), most_in_a_list) << domain << " of " << domains;
      // From task 0 on they are in order.
      std::rotate(taken.begin(), std::find(taken.begin(), taken.end(), 0), taken.end());
      std::vector<int> all(static_cast<std::size_t>(domains));
      std::iota(all.begin(), all.end(), 0);
      EXPECT_EQ(taken, all) << domain << " of " << domains;
    }
  }
}

// A job made for a machine of fewer domains.
TEST(TaskBag, ADomainThatTheJobDoesNotKnowStartsWithTheFirstList) {
  for (const int domains : {1, 2, 32, 40}) {
    for (const int domain : {domains, domains + 1, 50, 1000}) {
      std::vector<int> all(static_cast<std::size_t>(domains));
      std::iota(all.begin(), all.end(), 0);
      EXPECT_EQ(order_of(domain, domains), all) << domain << " of " << domains;
    }
  }
}

}  // namespace
}  // namespace kumiko::scheduler
