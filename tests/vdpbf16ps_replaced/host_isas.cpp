// SPDX-License-Identifier: Apache-2.0
// Programs of this folder take every machine with AVX-512 for one with AVX512_BF16. The linker puts these in
// place of the library's and the tests' own probe (--wrap).
#include <algorithm>
#include <string>
#include <vector>

#include "kernels/cpu.h"

extern "C" {

kumiko::kernels::IsaSet __real__ZN6kumiko7kernels9host_isasEv();
kumiko::kernels::IsaSet __wrap__ZN6kumiko7kernels9host_isasEv() {
  using namespace kumiko::kernels;
  const IsaSet has = __real__ZN6kumiko7kernels9host_isasEv();
  return has & bit(Isa::avx512) ? has | bit(Isa::avx512_bf16) : has;
}
}

// Its C++ names, for the result is no type of C.
std::vector<std::string> real_host_isas() asm("__real__ZN6kumiko4test9host_isasB5cxx11Ev");
std::vector<std::string> wrapped_host_isas() asm("__wrap__ZN6kumiko4test9host_isasB5cxx11Ev");
std::vector<std::string> wrapped_host_isas() {
  std::vector<std::string> has = real_host_isas();
  const bool lacks = std::find(has.begin(), has.end(), "avx512_bf16") == has.end();
  if (lacks && std::find(has.begin(), has.end(), "avx512") != has.end())
    has.insert(has.begin(), "avx512_bf16");
  return has;
}
