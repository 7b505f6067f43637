// SPDX-License-Identifier: Apache-2.0
// A foreign library orders its threads' memory by itself, but out of ThreadSanitizer's sight. So the
// thread that gives it something to do hands over first, and the thread that does it takes over, and once
// more on the way back, by one atomic addition.
#pragma once

namespace kumiko::scheduler {

/// What this thread has written is seen by all who take over from now on.
void hand_over() noexcept;
void take_over() noexcept;

}  // namespace kumiko::scheduler
