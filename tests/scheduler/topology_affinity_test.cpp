// SPDX-License-Identifier: Apache-2.0
// What discovery asks the kernel about the CPUs of its caller.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "tests/scheduler/machines.h"

namespace {

std::atomic<int> g_moves{0};
std::size_t g_kernels_mask_bytes = 0;  // The kernel refuses shorter ones.

}  // namespace

// In the place of the C library's, for hwloc as well.
extern "C" {
__attribute__((visibility("default"))) int sched_setaffinity(pid_t thread, std::size_t bytes,
                                                             const cpu_set_t* mask) noexcept {
  ++g_moves;
  return static_cast<int>(syscall(SYS_sched_setaffinity, thread, bytes, mask));
}

__attribute__((visibility("default"))) int sched_getaffinity(pid_t thread, std::size_t bytes,
                                                             cpu_set_t* mask) noexcept {
  if (bytes < g_kernels_mask_bytes) {
    errno = EINVAL;
    return -1;
  }
  const long written = syscall(SYS_sched_getaffinity, thread, bytes, mask);
  if (written < 0) return -1;
  std::memset(reinterpret_cast<std::byte*>(mask) + written, 0, bytes - static_cast<std::size_t>(written));
  return 0;
}
}

namespace kumiko::scheduler {
namespace {

TEST(TopologyAffinity, TheCallerIsNotMovedEvenForAMoment) {
  g_moves = 0;
  EXPECT_FALSE(test::machine("").domains.empty());
  EXPECT_EQ(g_moves, 0);
}

// Kernels made for 4096 CPUs.
TEST(TopologyAffinity, TheMaskMayBeLongerThanTheFirstOneTried) {
  const std::vector<int> cpus = test::cpus_of(test::machine(""));
  g_kernels_mask_bytes = 4096 / 8;
  EXPECT_EQ(test::cpus_of(test::machine("")), cpus);
  g_kernels_mask_bytes = 0;
}

}  // namespace
}  // namespace kumiko::scheduler
