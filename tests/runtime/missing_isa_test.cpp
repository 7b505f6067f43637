// SPDX-License-Identifier: Apache-2.0
// A forced ISA that the machine lacks is an error. The linker replaces the library's probe by ours (--wrap),
// so that this machine can simulate one with fewer ISAs.
#include <gtest/gtest.h>

#include "kernels/cpu.h"
#include "runtime/attention.h"

namespace {
kumiko::kernels::IsaSet pretended = 0;
}
// kumiko::kernels::host_isas() as every other file of this program sees it.
extern "C" kumiko::kernels::IsaSet __wrap__ZN6kumiko7kernels9host_isasEv() {
  return pretended;
}

namespace kumiko {
namespace {

using kernels::bit;
using kernels::Isa;

Status create(const std::string& isa, Context* context) {
  ContextOptions options;
  options.isa = isa;
  return Context::create(options, context);
}

TEST(MissingIsa, ForcedIsAnErrorThatSaysWhatIsMissing) {
  const struct {
    kernels::IsaSet host;
    const char* forced;
    const char* missing;
  } rows[] = {{bit(Isa::reference), "avx512", "AVX-512"},
              {bit(Isa::reference), "avx2", "AVX2"},
              {bit(Isa::reference), "neon", "AArch64"},
              {bit(Isa::reference) | bit(Isa::neon), "sve512", "SVE, vectors of exactly 512 bits"},
              {bit(Isa::reference) | bit(Isa::avx2), "avx512", "AVX-512"},
              {bit(Isa::reference) | bit(Isa::neon), "avx2", "AVX2"}};
  for (const auto& row : rows) {
    pretended = row.host;
    Context context;
    const Status status = create(row.forced, &context);
    EXPECT_EQ(status.code(), Code::unsupported) << row.forced;
    EXPECT_FALSE(context);
    for (const char* part : {"isa", row.forced, row.missing, "expected"})
      EXPECT_NE(status.message().find(part), std::string::npos) << status.message() << " lacks " << part;
  }
}

TEST(MissingIsa, UnforcedTheBestOfWhatIsThereIsTaken) {
  pretended = bit(Isa::reference);
  Context context;
  ASSERT_TRUE(create("", &context).ok());
  EXPECT_EQ(context.isa(), "reference");
  ASSERT_TRUE(create("reference", &context).ok());
  EXPECT_EQ(context.isa(), "reference");
}

}  // namespace
}  // namespace kumiko
