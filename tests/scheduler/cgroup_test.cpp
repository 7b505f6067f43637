// SPDX-License-Identifier: Apache-2.0
// CPU quotas, read from file trees as kernels and container runtimes lay them out.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "scheduler/topology.h"

namespace kumiko::scheduler {
namespace {

class Cgroup : public testing::Test {
 protected:
  Cgroup() {
    std::string pattern = testing::TempDir() + "/kumiko_cgroup_XXXXXX";
    root_ = mkdtemp(pattern.data());
  }
  ~Cgroup() override { std::filesystem::remove_all(root_); }

  void write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_ / path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  int limit() const { return cgroup_cpu_limit(root_.string()); }

  std::filesystem::path root_;
};

TEST_F(Cgroup, NothingMountedIsNoLimit) {
  EXPECT_EQ(limit(), 0);
  write("proc/self/cgroup", "0::/\n");
  EXPECT_EQ(limit(), 0);
}

TEST_F(Cgroup, V2) {
  write("proc/self/cgroup", "0::/user.slice/app.scope\n");
  write("sys/fs/cgroup/user.slice/app.scope/cpu.max", "max 100000\n");
  EXPECT_EQ(limit(), 0);
  write("sys/fs/cgroup/user.slice/app.scope/cpu.max", "400000 100000\n");
  EXPECT_EQ(limit(), 4);
}

TEST_F(Cgroup, V2RoundsUp) {
  write("proc/self/cgroup", "0::/\n");
  for (const auto& [quota, cpus] :
       {std::pair{"150000 100000", 2}, {"100001 100000", 2}, {"1000 100000", 1}, {"75000 50000", 2}}) {
    write("sys/fs/cgroup/cpu.max", quota);
    EXPECT_EQ(limit(), cpus) << quota;
  }
}

TEST_F(Cgroup, V2SmallestLimitOnTheWayToTheRoot) {
  write("proc/self/cgroup", "0::/a/b/c\n");
  write("sys/fs/cgroup/a/b/c/cpu.max", "800000 100000\n");
  write("sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
  write("sys/fs/cgroup/a/cpu.max", "300000 100000\n");
  EXPECT_EQ(limit(), 3);
  write("sys/fs/cgroup/a/b/c/cpu.max", "200000 100000\n");
  EXPECT_EQ(limit(), 2);
}

// Without a cgroup namespace a container sees the host's path, but its own group is mounted as the root.
TEST_F(Cgroup, ContainerWithTheHostsPath) {
  write("proc/self/cgroup", "0::/system.slice/docker-0123.scope\n");
  write("sys/fs/cgroup/cpu.max", "200000 100000\n");
  EXPECT_EQ(limit(), 2);
}

TEST_F(Cgroup, PathOutsideTheNamespace) {
  write("proc/self/cgroup", "0::/../../other\n");
  write("sys/fs/cgroup/cpu.max", "500000 100000\n");
  write("sys/other/cpu.max", "100000 100000\n");
  EXPECT_EQ(limit(), 5);
}

TEST_F(Cgroup, DotsInANameAreItsOwn) {
  write("proc/self/cgroup", "0::/system.slice/a..b.service\n");
  write("sys/fs/cgroup/system.slice/a..b.service/cpu.max", "200000 100000\n");
  EXPECT_EQ(limit(), 2);
  write("proc/self/cgroup", "0::/..b\n");
  write("sys/fs/cgroup/..b/cpu.max", "300000 100000\n");
  EXPECT_EQ(limit(), 3);
}

TEST_F(Cgroup, V1) {
  write("proc/self/cgroup", "12:cpuset:/box\n4:cpu,cpuacct:/box/inner\n1:name=systemd:/box\n");
  write("sys/fs/cgroup/cpu,cpuacct/box/inner/cpu.cfs_quota_us", "-1\n");
  write("sys/fs/cgroup/cpu,cpuacct/box/inner/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(limit(), 0);
  write("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "250000\n");
  write("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(limit(), 3);
  // The cpuset hierarchy's files are not the cpu controller's.
  write("sys/fs/cgroup/cpuset/box/cpu.cfs_quota_us", "100000\n");
  write("sys/fs/cgroup/cpuset/box/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(limit(), 3);
}

TEST_F(Cgroup, V1MountedUnderItsShortName) {
  write("proc/self/cgroup", "4:cpuacct,cpu:/\n");
  write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n");
  write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(limit(), 2);
}

TEST_F(Cgroup, HybridTakesTheSmaller) {
  write("proc/self/cgroup", "3:cpu:/box\n0::/box\n");
  write("sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "600000\n");
  write("sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000\n");
  write("sys/fs/cgroup/unified/box/cpu.max", "400000 100000\n");
  EXPECT_EQ(limit(), 4);
}

TEST_F(Cgroup, NonsenseIsNoLimit) {
  write("proc/self/cgroup", "garbage\n0::/\n:\n4:cpu\n");
  for (const char* text :
       {"", "max", "100000", "x 100000", "100000 0", "-5 100000", "0 100000", "100000 -1"}) {
    write("sys/fs/cgroup/cpu.max", text);
    EXPECT_EQ(limit(), 0) << text;
  }
}

TEST_F(Cgroup, LinesThatSayNothingArePassedOver) {
  write("proc/self/cgroup", "garbage\n:\n\n0::/box/\n");
  write("sys/fs/cgroup/box/cpu.max", "300000 100000\n");
  EXPECT_EQ(limit(), 3);
}

TEST_F(Cgroup, MoreCpusThanThereCanBeIsNoLimit) {
  write("proc/self/cgroup", "0::/\n");
  write("sys/fs/cgroup/cpu.max", "1048576 1");
  EXPECT_EQ(limit(), 1 << 20);
  for (const char* text : {"1048577 1", "4294967297 1", "9223372036854775807 1"}) {
    write("sys/fs/cgroup/cpu.max", text);
    EXPECT_EQ(limit(), 0) << text;
  }
}

TEST(CgroupHost, AnswersForThisProcess) {
  EXPECT_GE(cgroup_cpu_limit(), 0);
}

}  // namespace
}  // namespace kumiko::scheduler
