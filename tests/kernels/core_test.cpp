// SPDX-License-Identifier: Apache-2.0
// Processors by their numbers.
#include "kernels/core.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace kumiko::kernels {
namespace {

TEST(Core, X86ByFamilyAndModel) {
  const struct {
    Vendor vendor;
    unsigned family, model;
    Core want;
  } rows[] = {
      {Vendor::amd, 0x17, 0x01, Core::generic},  // Naples
      {Vendor::amd, 0x17, 0x31, Core::zen2},     // Rome
      {Vendor::amd, 0x19, 0x01, Core::zen3},     // Milan
      {Vendor::amd, 0x19, 0x21, Core::zen3},     // Vermeer
      {Vendor::amd, 0x19, 0x50, Core::zen3},     // Cezanne
      {Vendor::amd, 0x19, 0x11, Core::zen4},     // Genoa
      {Vendor::amd, 0x19, 0x61, Core::zen4},     // Raphael
      {Vendor::amd, 0x19, 0xa0, Core::zen4},     // Bergamo
      {Vendor::amd, 0x1a, 0x02, Core::zen5},     // Turin
      {Vendor::intel, 6, 0x55, Core::skylake_x},       {Vendor::intel, 6, 0x6a, Core::ice_lake},
      {Vendor::intel, 6, 0x6c, Core::ice_lake},        {Vendor::intel, 6, 0x8f, Core::sapphire_rapids},
      {Vendor::intel, 6, 0xcf, Core::sapphire_rapids},  // Emerald Rapids
      {Vendor::intel, 6, 0xad, Core::sapphire_rapids},  // Granite Rapids
      {Vendor::intel, 6, 0xae, Core::sapphire_rapids},  // Granite Rapids D
      {Vendor::intel, 6, 0x9e, Core::generic},          // Coffee Lake
      {Vendor::intel, 0x19, 0x01, Core::generic},      {Vendor::other, 0x19, 0x01, Core::generic},
  };
  for (const auto& row : rows)
    EXPECT_EQ(name(core_of(row.vendor, row.family, row.model)), std::string(name(row.want)))
        << std::hex << row.family << " " << row.model;
}

TEST(Core, ArmByMainIdRegister) {
  EXPECT_EQ(core_of(0x461f0010), Core::a64fx);
  EXPECT_EQ(core_of(0x461f0020), Core::generic);
  EXPECT_EQ(core_of(0x413fd0c1), Core::neoverse);  // N1
  EXPECT_EQ(core_of(0x411fd400), Core::neoverse);  // V1
  EXPECT_EQ(core_of(0x410fd490), Core::neoverse);  // N2
  EXPECT_EQ(core_of(0x410fd4f0), Core::neoverse);  // V2
  EXPECT_EQ(core_of(0x410fd034), Core::generic);   // Cortex-A53
  EXPECT_EQ(core_of(0x610f0230), Core::apple);
}

TEST(Core, NamesAreDistinct) {
  std::set<std::string> names;
  for (const Core core : kCores) names.insert(name(core));
  EXPECT_EQ(names.size(), std::size(kCores));
  EXPECT_TRUE(names.contains(name(host_core())));
}

}  // namespace
}  // namespace kumiko::kernels
