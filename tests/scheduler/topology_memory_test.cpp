// SPDX-License-Identifier: Apache-2.0
// Which node is a core's own, on machines that hwloc's synthetic strings cannot describe.
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "tests/scheduler/machines.h"

namespace kumiko::scheduler {
namespace {

// A recorded machine with every occurrence of some texts replaced.
Topology changed(const std::string& recorded,
                 const std::vector<std::pair<std::string, std::string>>& changes) {
  std::ifstream file(KUMIKO_TEST_DATA "/topologies/" + recorded);
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  for (const auto& [from, to] : changes) {
    EXPECT_NE(text.find(from), std::string::npos) << from;
    for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
      text.replace(at, from.size(), to);
  }
  const std::string copy = testing::TempDir() + "/kumiko_changed_" + recorded;
  std::ofstream(copy) << text;
  Topology topology = test::machine(copy);
  std::remove(copy.c_str());
  return topology;
}

// Xeons with persistent memory behind DRAM, or with HBM as a cache of DRAM.
TEST(TopologyMemory, ANodeBehindACacheOfItsOwnIsTheCoresNode) {
  const std::string end_of_node = "<page_type size=\"4096\" count=\"33554432\"/>\n      </object>\n";
  std::vector<std::pair<std::string, std::string>> changes = {
      {end_of_node, end_of_node + "      </object>\n"}};
  for (const std::string set : {"0x0fffff00,0x000fffff", "0x0000ffff,0xf00000ff,0xfff00000"}) {
    const std::string node = set[3] == 'f' ? "0" : "1";
    const std::string begin = "<object type=\"NUMANode\" os_index=\"" + node + "\"";
    changes.emplace_back(begin, "<object type=\"MemCache\" cpuset=\"" + set + "\" complete_cpuset=\"" + set +
                                    "\" nodeset=\"0x0000000" + (node == "0" ? "1" : "2") +
                                    "\" complete_nodeset=\"0x0000000" + (node == "0" ? "1" : "2") +
                                    "\" gp_index=\"90" + node +
                                    "\" cache_size=\"17179869184\" depth=\"1\" cache_linesize=\"64\" "
                                    "cache_associativity=\"0\" cache_type=\"0\">\n      " +
                                    begin);
  }
  const Topology t = changed("x86_2_sockets.xml", changes);
  ASSERT_EQ(t.domains.size(), 2u);
  EXPECT_EQ(t.domains[0].numa_node, 0);
  EXPECT_EQ(t.domains[1].numa_node, 1);
  EXPECT_EQ(t.domains[1].cores.size(), 20u);
}

// A container that may use the second of two nodes beside its core only.
TEST(TopologyMemory, ANodeThatIsNotAllowedIsNotTheCoresNode) {
  const std::string end_of_node = "<page_type size=\"4096\" count=\"8388608\"/>\n      </object>\n";
  const std::string sets = "cpuset=\"0x0000ffff\" complete_cpuset=\"0x0000ffff\" nodeset=";
  const auto node = [&](int index) {
    const std::string set = index == 0 ? "\"0x00000001\"" : "\"0x00000002\"";
    return "<object type=\"NUMANode\" os_index=\"" + std::to_string(index) + "\" " + sets + set +
           " complete_nodeset=" + set + " gp_index=\"9" + std::to_string(index) +
           "\" local_memory=\"34359738368\">\n        " + end_of_node;
  };
  for (const int allowed : {0, 1}) {
    const Topology t = changed("one_core_container.xml",
                               {{"nodeset=\"0x00000001\"", "nodeset=\"0x00000003\""},
                                {"allowed_nodeset=\"0x00000003\"",
                                 "allowed_nodeset=\"0x0000000" + std::to_string(1 + allowed) + "\""},
                                {"<object type=\"NUMANode\" os_index=\"0\" " + sets +
                                     "\"0x00000003\" complete_nodeset=\"0x00000003\" gp_index=\"3\" "
                                     "local_memory=\"34359738368\">\n        " +
                                     end_of_node,
                                 node(0) + "      " + node(1)}});
    ASSERT_EQ(t.domains.size(), 1u);
    EXPECT_EQ(t.domains[0].numa_node, allowed);
  }
}

}  // namespace
}  // namespace kumiko::scheduler
