// SPDX-License-Identifier: Apache-2.0
#include "tests/runtime/contexts.h"

#include <map>
#include <mutex>

namespace kumiko::test {

std::string flat_machine(int cores) {
  return "pack:1 l3:1 core:" + std::to_string(cores) + " pu:1";
}

Context context_of(const ContextOptions& options) {
  static std::mutex mutex;
  static std::map<std::string, Context> contexts;
  const std::string key = std::to_string(options.num_threads) + "|" + options.cpus + "|" + options.bind +
                          "|" + options.executor + "|" + options.isa + "|" + options.topology + "|" +
                          options.policy;
  const std::lock_guard lock(mutex);
  Context& context = contexts[key];
  if (!context) {
    const Status status = Context::create(options, &context);
    EXPECT_TRUE(status.ok()) << "Context::create(" << key << "): " << status.message();
  }
  return context;
}

Context context_of(const std::string& isa, const std::string& executor) {
  ContextOptions options;
  options.isa = isa;
  options.executor = executor;
  return context_of(options);
}

Context own_context(const std::string& executor, int threads) {
  ContextOptions options;
  options.executor = executor;
  options.num_threads = threads;
  options.topology = flat_machine(threads);
  Context context;
  const Status status = Context::create(options, &context);
  EXPECT_TRUE(status.ok()) << status.message();
  return context;
}

std::vector<Context> contexts_of(const std::string& isa) {
  std::vector<Context> list;
  for (const char* topology : {"core:1 pu:1", "numa:1 core:3 pu:1", "numa:2 core:2 pu:1"}) {
    ContextOptions options;
    options.isa = isa;
    options.topology = topology;
    list.push_back(context_of(options));
  }
  return list;
}

}  // namespace kumiko::test
