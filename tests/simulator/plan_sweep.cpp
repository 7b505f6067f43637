// SPDX-License-Identifier: Apache-2.0
// Prints the table of docs/planning.md: how far the plans of the sweep's problems are from perfect balance.
#include <algorithm>
#include <cstdio>
#include <string>

#include "tests/simulator/sweep.h"

namespace {

using namespace kumiko::test;

struct Class {
  double limit;
  int plans = 0, above = 0, above_whole = 0;
  double worst = 1;

  void add(const SweepResult& result) {
    ++plans;
    const double avoidable = result.may_be_cut ? result.avoidable_ratio() : 1.0;
    if (result.ratio() > limit) ++(avoidable > limit ? above : above_whole);
    worst = std::max(worst, avoidable);
  }
  std::string cells() const {
    char text[96];
    std::snprintf(text, sizeof text, " %d | %.3f | %d | %d |", plans, worst, above, above_whole);
    return text;
  }
};

}  // namespace

int main() {
  std::printf(
      "| machine | queries | plans with 4 tasks a core | worst | above 1.03 | above, indivisible | other "
      "plans "
      "| worst | above 1.10 | above, indivisible |\n|---|---|---|---|---|---|---|---|---|---|\n");
  const std::vector<SweepProblem> problems = sweep_problems();
  for (const SweepMachine& machine : sweep_machines()) {
    const kumiko::Context context = planning_context(machine);
    if (!context) return 1;
    for (const Phase phase : kPhases) {
      Class many{1.03}, few{1.10};
      for (const SweepProblem& problem : problems) {
        if (problem.phase != phase) continue;
        const SweepResult result = plan_problem(context, problem);
        (result.tasks >= 4 * machine.cores ? many : few).add(result);
      }
      std::printf("| %s | %s |%s%s\n", machine.name, name(phase), many.cells().c_str(), few.cells().c_str());
    }
  }
}
