// SPDX-License-Identifier: Apache-2.0
#include "scheduler/task_bag.h"

#include <algorithm>

namespace kumiko::scheduler {

TaskBag::TaskBag(const Job& job) noexcept
    : job_(job),
      num_domains_(static_cast<int>(job.assignment->domain_begin.size()) - 1),
      num_cursors_(std::clamp(num_domains_, 0, kMaxCursors)) {
  const auto& begin = job.assignment->domain_begin;
  for (int c = 0; c < num_cursors_; ++c) {
    cursors_[c].next.store(begin[c * num_domains_ / num_cursors_], std::memory_order_relaxed);
    cursors_[c].end = begin[(c + 1) * num_domains_ / num_cursors_];
  }
}

std::int32_t TaskBag::num_tasks() const noexcept {
  return num_cursors_ == 0 ? 0 : static_cast<std::int32_t>(job_.assignment->order.size());
}

// Relaxed: which thread takes a task orders nothing. The code that lets threads into the bag and waits for
// them to leave orders what the tasks read and write.
void TaskBag::drain(const Slot& slot) noexcept {
  if (num_cursors_ == 0) return;
  // The cursor whose range of domains holds the slot's domain.
  int c = static_cast<int>((std::int64_t{slot.domain} * num_cursors_ + num_cursors_ - 1) / num_domains_);
  if (c >= num_cursors_) c = 0;
  const std::int32_t* order = job_.assignment->order.data();
  for (int visited = 0; visited < num_cursors_; ++visited) {
    Cursor& cursor = cursors_[c];
    // Loading before adding keeps an empty cursor's cache line shared, and the counter within end + threads.
    while (cursor.next.load(std::memory_order_relaxed) < cursor.end) {
      const std::int32_t i = cursor.next.fetch_add(1, std::memory_order_relaxed);
      if (i >= cursor.end) break;
      job_.body(job_.context, order[i], slot);
    }
    c = c + 1 == num_cursors_ ? 0 : c + 1;
  }
}

}  // namespace kumiko::scheduler
