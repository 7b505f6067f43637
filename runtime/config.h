// What the user asked for: ContextOptions, then the environment, then "automatic". config.cpp is the only reader of the environment.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "kernels/cpu.h"
#include "runtime/attention.h"
#include "scheduler/executor.h"
#include "scheduler/policy.h"
#include "scheduler/topology.h"

namespace kumiko {

struct Config {
  int num_threads = 0;       ///< 0: automatic
  std::vector<int> cpus;     ///< empty: all allowed
  std::optional<scheduler::Bind> bind;
  const scheduler::ExecutorRow* executor = nullptr;  ///< never null after load
  const scheduler::PolicyRow* policy = nullptr;      ///< never null after load
  std::optional<kernels::Isa> isa;
  std::string topology;
  Pipeline pipeline = Pipeline::automatic;
  bool verbose = false;

  std::string num_threads_name = "num_threads";  ///< Where the value came from, for messages: option or variable.
};

Status load_config(const ContextOptions& options, Config* config);

/// nullptr for automatic.
const char* pipeline_name(Pipeline pipeline);

}  // namespace kumiko
