// SPDX-License-Identifier: Apache-2.0
// kumiko-bench: times attention of a given shape on this machine, checks the answer against fp64 and reports
// how far it is from the machine's limits. docs/benchmarking.md says how the figures are made.
#include <unistd.h>

#include <exception>
#include <iostream>
#include <new>

#include "tools/bench/bench.h"

int main(int argc, char** argv) {
  using namespace kumiko::tools;
  try {
    Options options;
    if (const std::optional<int> status = parse(argc, argv, &options, std::cout, std::cerr)) return *status;
    return run_bench(
        options, [](const kumiko::Plan& plan, const kumiko::AttentionArgs& args) { return plan.run(args); },
        std::cout, std::cerr, isatty(STDERR_FILENO) != 0);
  } catch (const std::bad_alloc&) {
    std::cerr << "kumiko-bench: out of memory\n";
  } catch (const std::exception& error) {
    std::cerr << "kumiko-bench: " << error.what() << "\n";
  }
  return kCannot;
}
