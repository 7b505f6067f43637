// SPDX-License-Identifier: Apache-2.0
#include "tests/support/host.h"

#include <sched.h>

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace kumiko::test {

std::vector<std::string> host_isas() {
  std::vector<std::string> isas;
#if defined(__x86_64__)
  __builtin_cpu_init();
  // __builtin_cpu_supports also checks with XGETBV whether the operating system saves the registers.
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    if (__builtin_cpu_supports("avx512bf16")) isas.emplace_back("avx512_bf16");
    isas.emplace_back("avx512");
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) isas.emplace_back("avx2");
#endif
#if defined(__aarch64__)
  // Read from the register itself, unlike the library, which asks the system. CNTB: bytes of a vector.
  if (const unsigned long features = getauxval(AT_HWCAP); (features & HWCAP_SVE) && (features & HWCAP_FPHP)) {
    unsigned long bytes = 0;
    asm(".arch_extension sve\n cntb %0" : "=r"(bytes));
    if (bytes == 64) isas.emplace_back("sve512");
  }
  isas.emplace_back("neon");
#endif
  isas.emplace_back("reference");
  return isas;
}

int allowed_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return CPU_COUNT(&set);
}

}  // namespace kumiko::test
