// SPDX-License-Identifier: Apache-2.0
// A foreign library orders its threads' memory accesses by itself, but ThreadSanitizer cannot see how. So the
// thread that gives the library work calls hand_over() first, and the thread that does the work calls
// take_over(); the same on the way back. Each is one atomic operation.
#pragma once

namespace kumiko::scheduler {

/// All threads that take over from now on see what this thread has written.
void hand_over() noexcept;
void take_over() noexcept;

}  // namespace kumiko::scheduler
