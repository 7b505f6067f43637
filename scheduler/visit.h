// One job on somebody else's threads, for executors that bring a scheduler of their own.
#pragma once

#include "scheduler/slots.h"
#include "scheduler/task_bag.h"

namespace kumiko::scheduler {

// A foreign library orders its threads' memory by itself, but out of ThreadSanitizer's sight. So the caller
// opens a bag before it lets others in and closes it after the last has left, and each visit in between
// orders itself against both once more, by one atomic addition.
void open_bag() noexcept;
void close_bag() noexcept;

/// Takes tasks in `slot` until none is left. The library's word is that the thread has the slot to itself;
/// should it not, the thread waits for it.
void visit_bag(TaskBag& bag, Slots& slots, int slot) noexcept;

}  // namespace kumiko::scheduler
