// SPDX-License-Identifier: Apache-2.0
// A cgroup's CPU quota bounds the threads of a context. The linker replaces the library's functions by ours
// (--wrap): the quota is read from files made here, and the host has four cores.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "runtime/attention.h"
#include "scheduler/topology.h"

namespace kumiko {
namespace {

std::string file_system_root;

#define LIMIT "_ZN6kumiko9scheduler16cgroup_cpu_limitERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"
#define TOPOLOGY                                                                            \
  "_ZN6kumiko9scheduler17discover_topologyERKNSt7__cxx1112basic_stringIcSt11char_traitsIcE" \
  "SaIcEEERKSt6vectorIiSaIiEERS6_"

}  // namespace

using Text = std::string;
using Cpus = std::vector<int>;
int real_limit(const Text& root) __asm__("__real_" LIMIT);
std::optional<scheduler::Topology> real_topology(const Text& description, const Cpus& cpus,
                                                 Text& error) __asm__("__real_" TOPOLOGY);

int limit_here(const Text& root) __asm__("__wrap_" LIMIT);
int limit_here(const Text&) {
  return real_limit(file_system_root);
}

std::optional<scheduler::Topology> topology_here(const Text& description, const Cpus& cpus,
                                                 Text& error) __asm__("__wrap_" TOPOLOGY);
std::optional<scheduler::Topology> topology_here(const Text& description, const Cpus& cpus, Text& error) {
  if (!description.empty()) return real_topology(description, cpus, error);
  auto topology = real_topology("pack:1 core:4 pu:1", cpus, error);
  if (topology) topology->is_host = true;
  return topology;
}

namespace {

struct CgroupLimit : testing::Test {
  void SetUp() override {
    std::string pattern = testing::TempDir() + "/kumiko_quota_XXXXXX";
    file_system_root = mkdtemp(pattern.data());
  }
  void TearDown() override { std::filesystem::remove_all(file_system_root); }

  static void grant(const std::string& cpu_max) {
    for (const auto& [path, text] : {std::pair<const char*, std::string>{"proc/self/cgroup", "0::/service\n"},
                                     {"sys/fs/cgroup/service/cpu.max", cpu_max}}) {
      const std::filesystem::path file = std::filesystem::path(file_system_root) / path;
      std::filesystem::create_directories(file.parent_path());
      std::ofstream(file) << text;
    }
  }
  static Status create(int threads, Context* context, const std::string& topology = "") {
    ContextOptions options;
    options.executor = "serial";  // its seats need no CPUs
    options.num_threads = threads;
    options.topology = topology;
    return Context::create(options, context);
  }
};

TEST_F(CgroupLimit, BoundsTheThreadsThatAreTakenUnasked) {
  const struct {
    const char* cpu_max;
    int threads;
  } rows[] = {{"max 100000", 4},    {"100000 100000", 1}, {"150000 100000", 2},
              {"300000 100000", 3}, {"400000 100000", 4}, {"900000 100000", 4}};
  for (const auto& row : rows) {
    grant(row.cpu_max);
    Context context;
    ASSERT_TRUE(create(0, &context).ok()) << row.cpu_max;
    EXPECT_EQ(context.num_threads(), row.threads) << row.cpu_max;
  }
}

TEST_F(CgroupLimit, MoreThreadsThanItGrantsAreRefused) {
  grant("200000 100000");
  Context context;
  ASSERT_TRUE(create(2, &context).ok());
  EXPECT_EQ(context.num_threads(), 2);
  EXPECT_NE(context.describe().find("threads 2 of 4 cores, cgroup quota 2 CPUs\n"), std::string::npos)
      << context.describe();
  const Status status = create(3, &context);
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_EQ(status.message(), "num_threads is \"3\"; expected 1..2, the CPUs its cgroup quota grants");
  grant("900000 100000");
  EXPECT_EQ(create(5, &context).message(),
            "num_threads is \"5\"; expected 1..4, the cores this process may use");
}

TEST_F(CgroupLimit, SaysNothingOfAMachineThatIsOnlyPlannedFor) {
  grant("100000 100000");
  Context context;
  ASSERT_TRUE(create(6, &context, "pack:1 core:6 pu:1").ok());
  EXPECT_EQ(context.num_threads(), 6);
}

}  // namespace
}  // namespace kumiko
