// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/append_fuzz.h"

#include <kumiko/kv_append_c.h>

#include <memory>
#include <vector>

#include "tests/fuzz/append_problem.h"
#include "tests/fuzz/checks.h"
#include "tests/fuzz/failing_new.h"

namespace kumiko::fuzz {
namespace {

void check(AppendProblem& problem, const kumiko_context* context, long countdown) {
  problem.poison_outputs();
  // In memory of exactly its size.
  const auto passed = std::make_unique<kumiko_kv_append_args>(problem.args());
  kumiko_status status;
  {
    const FailingNew failing(kLargestRequest, countdown);
    status = kumiko_kv_append(context, passed.get());
  }
  checked(status, "kv_append");
  if (status == KUMIKO_OK) {
    require(!problem.is_refused(), "only a sound append runs");
    problem.check_rest_is_poisoned();
    return;
  }
  require(status == KUMIKO_OUT_OF_MEMORY || problem.is_refused(), "a sound append runs", kumiko_last_error());
  require(status != KUMIKO_OUT_OF_MEMORY || countdown >= 0, "an append needs little memory");
  require(problem.outputs_untouched(), "an error leaves the outputs alone", "kv_append");
}

}  // namespace

void fuzz_append(Input& input, const kumiko_context* own, const kumiko_context* other,
                 const kumiko_context* reference) {
  const int flags = input.byte();
  const long countdown = flags & 1 ? input.byte() : -1;
  AppendProblem problem(input);
  if (flags & 2) problem.add_fault(input);
  if (countdown >= 0) check(problem, own, countdown);
  check(problem, own, -1);
  if (problem.is_refused()) return;
  const std::vector<unsigned char> want = problem.outputs();
  for (const kumiko_context* context : {other, reference}) {
    if (!context) continue;
    check(problem, context, -1);
    require(problem.outputs() == want, "every machine and instruction set appends the same bytes");
  }
}

}  // namespace kumiko::fuzz
