// SPDX-License-Identifier: Apache-2.0
#include "results.h"

#include <iostream>

#include "tools/write_file.h"

namespace scaling {
namespace {

int refuse_file(const Options& options) {
  std::cerr << "--json: cannot write " << options.json << "\n";
  return 1;
}

}  // namespace

int check_results(const Options& options) {
  return options.json.empty() || kumiko::tools::is_writable(options.json) ? 0 : refuse_file(options);
}

int write_results(const Options& options, const std::string& table, const std::string& json) {
  std::cout << table << std::flush;  // first: it may have taken hours
  if (!options.json.empty() && !kumiko::tools::write_file(options.json, json)) return refuse_file(options);
  if (std::cout) return 0;
  std::cerr << "the standard output cannot be written\n";
  return 1;
}

}  // namespace scaling
