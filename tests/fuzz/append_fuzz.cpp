// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/append_fuzz.h"

#include "tests/fuzz/append_problem.h"

namespace kumiko::fuzz {

void fuzz_append(Input& input, const kumiko_context* own, const kumiko_context* other,
                 const kumiko_context* reference) {
  const int flags = input.byte();
  const long countdown = flags & 1 ? input.byte() : -1;
  AppendProblem problem(input);
  if (flags & 2) problem.add_fault(input);
  problem.fuzz(own, other, reference, countdown);
}

}  // namespace kumiko::fuzz
