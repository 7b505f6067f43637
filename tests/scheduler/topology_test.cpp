// SPDX-License-Identifier: Apache-2.0
// Domains of synthetic, recorded and real machines; CPU lists; seats.
#include "scheduler/topology.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <numeric>
#include <set>

#include "tests/scheduler/machines.h"

namespace kumiko::scheduler {
namespace {

using test::cpus_of;
using test::machine;

std::vector<int> range(int first, int count) {
  std::vector<int> cpus(static_cast<std::size_t>(count));
  std::iota(cpus.begin(), cpus.end(), first);
  return cpus;
}

std::string refusal(const std::string& description, const std::vector<int>& cpus = {}) {
  std::string error;
  EXPECT_FALSE(discover_topology(description, cpus, error)) << description;
  return error;
}

std::vector<int> allowed_here() {
  cpu_set_t set;
  EXPECT_EQ(sched_getaffinity(0, sizeof set, &set), 0);
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

TEST(Topology, OneCore) {
  const Topology t = machine("pack:1 core:1 pu:1");
  ASSERT_EQ(t.domains.size(), 1u);
  EXPECT_EQ(cpus_of(t), range(0, 1));
  EXPECT_FALSE(t.is_host);
  EXPECT_EQ(t.source, "pack:1 core:1 pu:1");
  EXPECT_GT(t.domains[0].l1_bytes_per_core, 0);
  EXPECT_GT(t.domains[0].l2_bytes_per_core, 0);
  EXPECT_GT(t.domains[0].llc_bytes, 0);
}

TEST(Topology, EpycHasADomainForEachL3AndACoreForEachPairOfThreads) {
  const Topology t =
      machine("pack:1 [numa] l3:2(size=33554432) l2:4(size=1048576) l1d:1(size=49152) core:1 pu:2");
  ASSERT_EQ(t.domains.size(), 2u);
  EXPECT_EQ(cpus_of(t.domains[0]), (std::vector<int>{0, 2, 4, 6}));
  EXPECT_EQ(cpus_of(t.domains[1]), (std::vector<int>{8, 10, 12, 14}));
  for (const Domain& domain : t.domains) {
    EXPECT_EQ(domain.numa_node, 0);
    EXPECT_EQ(domain.l1_bytes_per_core, 48 << 10);
    EXPECT_EQ(domain.l2_bytes_per_core, 1 << 20);
    EXPECT_EQ(domain.llc_bytes, 32 << 20);
  }
}

TEST(Topology, TwoSocketsWithOneL3Each) {
  const Topology t = machine("pack:2 [numa] l3:1(size=16777216) core:4 pu:1");
  ASSERT_EQ(t.domains.size(), 2u);
  for (int d = 0; d < 2; ++d) {
    EXPECT_EQ(t.domains[d].numa_node, d);
    EXPECT_EQ(cpus_of(t.domains[d]), range(4 * d, 4));
  }
}

TEST(Topology, TwoNodesUnderOneL3AreTwoDomains) {
  const Topology t = machine("l3:1 numa:2 core:3 pu:1");
  ASSERT_EQ(t.domains.size(), 2u);
  EXPECT_EQ(t.domains[0].numa_node, 0);
  EXPECT_EQ(t.domains[1].numa_node, 1);
  EXPECT_EQ(cpus_of(t.domains[1]), range(3, 3));
}

TEST(Topology, SharedL2IsTheLastLevelAndIsShared) {
  const Topology t = machine("numa:2 l2:1(size=8388608) core:12 pu:1");
  ASSERT_EQ(t.domains.size(), 2u);
  EXPECT_EQ(t.domains[1].cores.size(), 12u);
  EXPECT_EQ(t.domains[0].llc_bytes, 8 << 20);
  EXPECT_EQ(t.domains[0].l2_bytes_per_core, (8 << 20) / 12);
}

// A virtual machine that hides its L3 is no machine of single-core domains, but an L3 of one core is a domain
// (EPYC 72F3).
TEST(Topology, PrivateL2IsNoDomainButPrivateL3Is) {
  EXPECT_EQ(machine("numa:1 l2:4 core:1 pu:1").domains.size(), 1u);
  EXPECT_EQ(machine("numa:1 l3:4 l2:1 core:1 pu:1").domains.size(), 4u);
}

TEST(Topology, NumberingThatAlternatesBetweenSockets) {
  const Topology t = machine("pack:2 [numa] l3:1 core:2 pu:1(indexes=0,2,1,3)");
  ASSERT_EQ(t.domains.size(), 2u);
  EXPECT_EQ(cpus_of(t.domains[0]), (std::vector<int>{0, 2}));
  EXPECT_EQ(cpus_of(t.domains[1]), (std::vector<int>{1, 3}));
}

// Domains are in the order of the operating system's nodes, whatever order the cores come in.
TEST(Topology, NodesThatAreNumberedTheOtherWayRound) {
  const Topology t = machine("pack:2 [numa(indexes=3,1)] l3:1 core:2 pu:1");
  ASSERT_EQ(t.domains.size(), 2u);
  EXPECT_EQ(t.domains[0].numa_node, 1);
  EXPECT_EQ(cpus_of(t.domains[0]), (std::vector<int>{2, 3}));
  EXPECT_EQ(t.domains[1].numa_node, 3);
  EXPECT_EQ(cpus_of(t.domains[1]), (std::vector<int>{0, 1}));
}

// DRAM and HBM side by side, as on a Xeon Max: the first is a core's own. One without memory is nobody's.
TEST(Topology, SeveralNodesBesideACore) {
  const auto nodes = [](const std::string& description) {
    std::vector<int> found;
    for (const Domain& domain : machine(description).domains) found.push_back(domain.numa_node);
    return found;
  };
  EXPECT_EQ(nodes("pack:1 [numa(memory=4GB)] [numa(memory=1GB)] l3:1 core:2 pu:1"), std::vector<int>{0});
  EXPECT_EQ(nodes("pack:1 [numa(memory=0)] [numa(memory=1GB)] l3:1 core:2 pu:1"), std::vector<int>{1});
  // The node of the whole machine, where a package's own has nothing.
  const std::vector<int> shared = nodes("[numa(memory=4GB)] pack:2 [numa(memory=0)] l3:1 core:2 pu:1");
  ASSERT_EQ(shared.size(), 2u);
  EXPECT_EQ(shared[0], shared[1]);
}

TEST(Topology, FugakuNodeFromXml) {
  const Topology t = machine(KUMIKO_TEST_DATA "/topologies/a64fx_fugaku.xml");
  ASSERT_EQ(t.domains.size(), 4u);
  for (int cmg = 0; cmg < 4; ++cmg) {
    const Domain& domain = t.domains[cmg];
    EXPECT_EQ(domain.numa_node, 4 + cmg);
    EXPECT_EQ(cpus_of(domain), range(12 + 12 * cmg, 12));
    EXPECT_EQ(domain.l1_bytes_per_core, 64 << 10);
    EXPECT_EQ(domain.l2_bytes_per_core, (8 << 20) / 12);
    EXPECT_EQ(domain.llc_bytes, 8 << 20);
  }
  // The list a user of half the node gives, as in docs/environment.md; cache shares stay those of the whole
  // CMG.
  const Topology half = machine(KUMIKO_TEST_DATA "/topologies/a64fx_fugaku.xml", {12, 13, 36, 59});
  ASSERT_EQ(half.domains.size(), 3u);
  EXPECT_EQ(cpus_of(half), (std::vector<int>{12, 13, 36, 59}));
  EXPECT_EQ(half.domains[2].numa_node, 7);
  EXPECT_EQ(half.domains[0].l2_bytes_per_core, (8 << 20) / 12);
  const std::string error = refusal(KUMIKO_TEST_DATA "/topologies/a64fx_fugaku.xml", {0, 12});
  EXPECT_NE(error.find("CPU 0 "), std::string::npos) << error;
  EXPECT_NE(error.find("12-59"), std::string::npos) << error;
}

TEST(Topology, Fx700NumbersFromZero) {
  const Topology t = machine(KUMIKO_TEST_DATA "/topologies/a64fx_fx700.xml");
  ASSERT_EQ(t.domains.size(), 4u);
  for (int cmg = 0; cmg < 4; ++cmg) {
    EXPECT_EQ(t.domains[cmg].numa_node, cmg);
    EXPECT_EQ(cpus_of(t.domains[cmg]), range(12 * cmg, 12));
    EXPECT_EQ(t.domains[cmg].l1_bytes_per_core, 64 << 10);
    EXPECT_EQ(t.domains[cmg].l2_bytes_per_core, (8 << 20) / 12);
    EXPECT_EQ(t.domains[cmg].llc_bytes, 8 << 20);
  }
}

// The same machine under another name: the A64FX's caches are the A64FX's alone.
TEST(Topology, CachesAreGuessedByTheProcessorsIdentification) {
  std::ifstream recorded(KUMIKO_TEST_DATA "/topologies/a64fx_fx700.xml");
  std::string text((std::istreambuf_iterator<char>(recorded)), std::istreambuf_iterator<char>());
  const std::string part = "\"CPUPart\" value=\"0x001\"";
  ASSERT_NE(text.find(part), std::string::npos);
  for (std::size_t at; (at = text.find(part)) != std::string::npos;)
    text.replace(at, part.size(), "\"CPUPart\" value=\"0x003\"");
  const std::string file = testing::TempDir() + "/kumiko_not_a64fx.xml";
  std::ofstream(file) << text;
  const Topology t = machine(file);
  ASSERT_EQ(t.domains.size(), 4u);
  EXPECT_EQ(t.domains[0].l1_bytes_per_core, 32 << 10);
  EXPECT_EQ(t.domains[0].l2_bytes_per_core, 512 << 10);
  EXPECT_EQ(t.domains[0].llc_bytes, 12 << 20);
  std::remove(file.c_str());
}

TEST(Topology, TwoSocketsWithTwoThreadsACore) {
  const Topology t = machine(KUMIKO_TEST_DATA "/topologies/x86_2_sockets.xml");
  ASSERT_EQ(t.domains.size(), 2u);
  for (int socket = 0; socket < 2; ++socket) {
    EXPECT_EQ(t.domains[socket].numa_node, socket);
    EXPECT_EQ(cpus_of(t.domains[socket]), range(20 * socket, 20)) << "the first thread of each core";
    EXPECT_EQ(t.domains[socket].l1_bytes_per_core, 48 << 10);
    EXPECT_EQ(t.domains[socket].l2_bytes_per_core, 1280 << 10);
    EXPECT_EQ(t.domains[socket].llc_bytes, 30 << 20);
  }
}

TEST(Topology, OfflineCpusAreNobodysAndCannotBeAskedFor) {
  const char* const file = KUMIKO_TEST_DATA "/topologies/x86_offline.xml";
  const Topology t = machine(file);
  ASSERT_EQ(t.domains.size(), 2u);
  EXPECT_EQ(cpus_of(t.domains[0]), (std::vector<int>{0, 3, 10}))
      << "CPU 10 stands in for its offline sibling";
  EXPECT_EQ(cpus_of(t.domains[1]), range(4, 4));
  for (const int offline : {1, 2, 9}) {
    const std::string error = refusal(file, {0, offline});
    EXPECT_NE(error.find("CPU " + std::to_string(offline) + " "), std::string::npos) << error;
  }
}

TEST(Topology, SeveralL3sOnEachOfSeveralNodes) {
  const Topology t = machine(KUMIKO_TEST_DATA "/topologies/epyc_nps4.xml");
  ASSERT_EQ(t.domains.size(), 8u);
  for (int l3 = 0; l3 < 8; ++l3) {
    EXPECT_EQ(t.domains[l3].numa_node, l3 / 2);
    EXPECT_EQ(cpus_of(t.domains[l3]), range(4 * l3, 4));
    EXPECT_EQ(t.domains[l3].llc_bytes, 32 << 20);
  }
}

TEST(Topology, ContainerWithOneThreadOfOneCore) {
  const char* const file = KUMIKO_TEST_DATA "/topologies/one_core_container.xml";
  const Topology t = machine(file);
  ASSERT_EQ(t.domains.size(), 1u);
  EXPECT_EQ(cpus_of(t), std::vector<int>{13});
  EXPECT_EQ(t.domains[0].llc_bytes, 16 << 20);
  EXPECT_NE(refusal(file, {5}).find("(13)"), std::string::npos) << "its other thread is somebody else's";
}

// A cpuset that leaves 3 of a CMG's 12 cores does not make their share of its L2 larger.
TEST(Topology, CpusetLeavesCacheSharesAlone) {
  std::ifstream recorded(KUMIKO_TEST_DATA "/topologies/a64fx_fugaku.xml");
  std::string text((std::istreambuf_iterator<char>(recorded)), std::istreambuf_iterator<char>());
  const std::string allowed = "allowed_cpuset=\"0x0fffffff,0xfffff000\"";
  ASSERT_NE(text.find(allowed), std::string::npos);
  text.replace(text.find(allowed), allowed.size(), "allowed_cpuset=\"0x00007000\"");
  const std::string file = testing::TempDir() + "/kumiko_cpuset.xml";
  std::ofstream(file) << text;
  const Topology t = machine(file);
  ASSERT_EQ(t.domains.size(), 1u);
  EXPECT_EQ(cpus_of(t), range(12, 3));
  EXPECT_EQ(t.domains[0].numa_node, 4);
  EXPECT_EQ(t.domains[0].l2_bytes_per_core, (8 << 20) / 12);
  std::remove(file.c_str());
}

TEST(Topology, CpusChooseTheThreadOfACore) {
  const Topology t = machine("pack:1 [numa] l3:1 core:2 pu:2", {1, 2, 3});
  EXPECT_EQ(cpus_of(t), (std::vector<int>{1, 2}));
  EXPECT_EQ(t.domains[0].cores[0].others, (std::vector<int>{0})) << "not in the list, but of the core";
  EXPECT_EQ(t.domains[0].cores[1].others, (std::vector<int>{3}));
}

TEST(Topology, DescriptionsThatDoNotParseAreNamed) {
  const std::string file = testing::TempDir() + "/kumiko_not_xml.xml";
  std::ofstream(file) << "no topology\n";
  for (const std::string& bad :
       {std::string("core"), std::string("pack:0 pu:1"), std::string("/no/such/file.xml"), file}) {
    const std::string error = refusal(bad);
    EXPECT_NE(error.find("'" + bad + "'"), std::string::npos) << error;
  }
  std::remove(file.c_str());
}

// hwloc itself would print it.
TEST(Topology, FilesWithoutNodesAreRefusedInSilence) {
  std::ifstream recorded(KUMIKO_TEST_DATA "/topologies/one_core_container.xml");
  std::string text(std::istreambuf_iterator<char>(recorded), {});
  const std::size_t begin = text.find("<object type=\"NUMANode\""), end = text.find("</object>", begin);
  ASSERT_NE(end, std::string::npos);
  text.erase(begin, end + sizeof "</object>" - 1 - begin);
  const std::string file = testing::TempDir() + "/kumiko_without_nodes.xml";
  std::ofstream(file) << text;
  testing::internal::CaptureStderr();
  EXPECT_EQ(refusal(file), "topology: the file '" + file +
                               "' has no NUMANode; expected at least one, as its objects have nodesets");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  // Files of hwloc 1 need not speak of nodes at all.
  for (std::size_t at = 0; (at = text.find("nodeset=", at)) != std::string::npos;)
    text.replace(at, text.find('"', at + 9) + 1 - at, "");
  for (const std::string prefix : {"complete_", "allowed_"})
    for (std::size_t at = 0; (at = text.find(prefix + " ", at)) != std::string::npos;)
      text.erase(at, prefix.size());
  text.replace(text.find(" version=\"2.0\""), sizeof " version=\"2.0\"" - 1, "");
  std::ofstream(file) << text;
  EXPECT_EQ(machine(file).num_cores(), 1);
  std::remove(file.c_str());
}

// hwloc compares each object with all beside it: 16384 cores on one level take it minutes.
TEST(Topology, TooManyObjectsBesideOneAnotherAreRefused) {
  for (const std::string large : {"core:16384 pu:1", "16384", "pack:1 [numa] l3:1(size=1) core:0x4000 pu:1",
                                  "core:4000000000 pu:4000000000", "group:2 core:8192 pu:1"}) {
    EXPECT_EQ(refusal(large),
              "topology: '" + large +
                  "' has too many objects beside one another; expected groups of fewer, such as "
                  "'group:64 core:64 pu:1'");
  }
  const Topology t = machine("pack:1 [numa] l3:1(size=33554432) group:64 core:64 pu:1(indexes=1*64:64*64)");
  EXPECT_EQ(t.num_cores(), 4096);
  EXPECT_EQ(t.domains.size(), 1u);
}

TEST(Topology, HostIsWhatTheAffinityMaskAllows) {
  const std::vector<int> allowed = allowed_here();
  const Topology t = machine("");
  EXPECT_TRUE(t.is_host);
  EXPECT_EQ(t.source, "host");
  ASSERT_FALSE(t.domains.empty());
  const std::set<int> set(allowed.begin(), allowed.end());
  for (const int cpu : cpus_of(t)) EXPECT_TRUE(set.contains(cpu)) << cpu;
  EXPECT_EQ(allowed_here(), allowed) << "discovery moved its caller";
}

TEST(Topology, HostRestrictedByTheAffinityMask) {
  const std::vector<int> allowed = allowed_here();
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  for (const int cpu : {allowed.front(), allowed.back()}) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
    EXPECT_EQ(cpus_of(machine("")), std::vector<int>{cpu});
    EXPECT_EQ(cpus_of(machine("", {cpu})), std::vector<int>{cpu});
    for (const int other : allowed) {
      if (other == cpu) continue;
      const std::string error = refusal("", {cpu, other});
      EXPECT_NE(error.find("CPU " + std::to_string(other) + " "), std::string::npos) << error;
    }
    // Other machines are not this one's affinity mask's business.
    EXPECT_EQ(machine("core:4 pu:1").num_cores(), 4);
  }
  ASSERT_EQ(sched_setaffinity(0, sizeof before, &before), 0);
}

TEST(Topology, CpuThatDoesNotExistIsNamed) {
  EXPECT_NE(refusal("", {65535}).find("CPU 65535 "), std::string::npos);
  EXPECT_NE(refusal("", {-1}).find("CPU -1 "), std::string::npos);
}

std::vector<int> cpus_of_a_process(const std::string& environment, const std::string& argument = "") {
  std::FILE* pipe = popen((environment + " " + KUMIKO_HOST_CPUS_PROBE + " " + argument).c_str(), "r");
  std::vector<int> cpus;
  if (pipe == nullptr) return cpus;
  for (int cpu; std::fscanf(pipe, "%d", &cpu) == 1;) cpus.push_back(cpu);
  EXPECT_EQ(pclose(pipe), 0) << environment;
  return cpus;
}

// libgomp binds the main thread to one place when the program starts; the machine is still all places.
TEST(Topology, OmpProcBindDoesNotShrinkTheHost) {
  for (const char* environment :
       {"OMP_PROC_BIND=false", "OMP_PROC_BIND=close", "OMP_PROC_BIND=spread OMP_PLACES=threads"}) {
    EXPECT_EQ(cpus_of_a_process(environment), cpus_of(machine(""))) << environment;
  }
}

// But a thread that was bound elsewhere since is bound by its program, and that counts.
TEST(Topology, OmpPlacesDoNotMoveTheHost) {
  const int first = allowed_here().front(), last = allowed_here().back();
  if (first == last) GTEST_SKIP() << "needs two CPUs, one that is no place of libgomp's";
  const std::string places = "OMP_PROC_BIND=close OMP_PLACES={" + std::to_string(first) + "}";
  EXPECT_EQ(cpus_of_a_process(places), std::vector<int>{first});
  EXPECT_EQ(cpus_of_a_process(places, std::to_string(last)), std::vector<int>{last});
}

// hwloc's own environment stands in for the host, and then no affinity mask is of that machine.
TEST(Topology, HwlocsEnvironmentIsAnotherMachine) {
  EXPECT_EQ(cpus_of_a_process("HWLOC_SYNTHETIC='numa:1 core:1500 pu:1'"), range(0, 1500));
}

TEST(CpuList, Parses) {
  const std::vector<std::pair<std::string, std::vector<int>>> cases = {
      {"0", {0}},
      {"0-3,8", {0, 1, 2, 3, 8}},
      {"8,0-3", {0, 1, 2, 3, 8}},
      {"1-2,2-3,3", {1, 2, 3}},
      {"7-7", {7}},
      {"65535", {65535}},
      {"007", {7}},
  };
  for (const auto& [text, cpus] : cases) {
    std::string error;
    const auto parsed = parse_cpu_list(text, error);
    ASSERT_TRUE(parsed) << text << ": " << error;
    EXPECT_EQ(*parsed, cpus) << text;
  }
}

TEST(CpuList, RefusesEverythingElseAndNamesIt) {
  const std::vector<std::string> cases = {
      "",    ",",   "-",   "0,",  ",0",   "0,,1", "0-", "-1",    "3-1",   "0-1-2",   "a",
      "0x1", "1.5", " 0",  "0 ",  "0, 1", "0 -1", "+1", "0-3:2", "65536", "0-65536", "99999999999999999999",
      "0\n", "0;1", "1-a", "--1",
  };
  for (const std::string& text : cases) {
    std::string error;
    EXPECT_FALSE(parse_cpu_list(text, error)) << text;
    EXPECT_NE(error.find("'" + text + "'"), std::string::npos) << error;
  }
}

std::vector<int> domains_of(const std::vector<Seat>& seats) {
  std::vector<int> domains;
  for (const Seat& seat : seats) domains.push_back(seat.domain);
  return domains;
}

std::vector<int> cpus_of(const std::vector<Seat>& seats) {
  std::vector<int> cpus;
  for (const Seat& seat : seats) cpus.push_back(seat.os_cpu);
  return cpus;
}

TEST(Seats, CloseFillsADomainBeforeTheNextAndSpreadTakesTurns) {
  const Topology t = machine("numa:3 l3:1 core:3 pu:1", {0, 1, 2, 3, 6, 7, 8});  // 3, 1 and 3 cores
  EXPECT_EQ(domains_of(seat_workers(t, 7, Bind::close)), (std::vector<int>{0, 0, 0, 1, 2, 2, 2}));
  EXPECT_EQ(domains_of(seat_workers(t, 5, Bind::none)), (std::vector<int>{0, 0, 0, 1, 2}));
  const std::vector<Seat> spread = seat_workers(t, 7, Bind::spread);
  EXPECT_EQ(domains_of(spread), (std::vector<int>{0, 1, 2, 0, 2, 0, 2}));
  EXPECT_EQ(cpus_of(spread), (std::vector<int>{0, 3, 6, 1, 7, 2, 8}));
  EXPECT_EQ(cpus_of(seat_workers(t, 7, Bind::close)), (std::vector<int>{0, 1, 2, 3, 6, 7, 8}));
}

TEST(Seats, WrapAround) {
  const Topology t = machine("numa:2 l3:1 core:2 pu:1");
  for (const Bind bind : {Bind::close, Bind::spread, Bind::none}) {
    const std::vector<Seat> seats = seat_workers(t, 11, bind);
    ASSERT_EQ(seats.size(), 11u);
    for (std::size_t i = 4; i < seats.size(); ++i) EXPECT_EQ(seats[i].os_cpu, seats[i - 4].os_cpu);
    EXPECT_TRUE(seat_workers(t, 0, bind).empty());
  }
}

}  // namespace
}  // namespace kumiko::scheduler
