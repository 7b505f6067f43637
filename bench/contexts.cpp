// SPDX-License-Identifier: Apache-2.0
#include "bench/contexts.h"

#include <map>
#include <utility>

#include "bench/ceilings.h"

namespace kumiko::bench {

Status context_for(const std::string& isa, int threads, Context* context) {
  static std::map<std::pair<std::string, int>, Context> contexts;
  Context& entry = contexts[{isa, threads}];
  if (!entry) {
    ContextOptions options;
    options.isa = isa;
    options.num_threads = threads;
    for (int cpu : first_cores(threads)) {
      if (!options.cpus.empty()) options.cpus += ',';
      options.cpus += std::to_string(cpu);
    }
    if (const Status status = Context::create(options, &entry); !status.ok()) return status;
  }
  *context = entry;
  return {};
}

}  // namespace kumiko::bench
