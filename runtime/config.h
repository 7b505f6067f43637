// SPDX-License-Identifier: Apache-2.0
// The user's settings: ContextOptions first, then the environment, then "automatic". Only config.cpp reads
// the environment.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "kernels/cpu.h"
#include "runtime/attention.h"
#include "scheduler/executor.h"
#include "scheduler/policy.h"
#include "scheduler/topology.h"

namespace kumiko {

/// One setting: the option if given, else the variable if set (an empty variable counts as unset).
struct Setting {
  std::string name;   ///< Name of the option or the variable, for messages.
  std::string value;  ///< Empty if not set.
  Code code = Code::invalid_argument;

  bool is_set() const { return !value.empty(); }
  Status error(const std::string& expected) const {
    return {code, name + " is \"" + value + "\"; expected " + expected};
  }
};

struct Config {
  int num_threads = 0;    ///< 0: automatic
  std::vector<int> cpus;  ///< empty: all allowed
  std::optional<scheduler::Bind> bind;
  const scheduler::ExecutorRow* executor = nullptr;  ///< never null after load
  const scheduler::PolicyRow* policy = nullptr;      ///< never null after load
  std::optional<kernels::Isa> isa;
  Setting num_threads_setting, cpus_setting, topology_setting, trace_setting,
      tuning_setting;  ///< For errors that show only on the machine.
  Pipeline pipeline = Pipeline::automatic;
  Precision precision = Precision::automatic;
  bool verbose = false;
  std::chrono::microseconds spin = scheduler::kDefaultSpin;
  std::size_t openmp_stack_bytes = 0;  ///< 0: the default
};

Status load_config(const ContextOptions& options, Config* config);

/// "avx512_bf16 | avx512 | ...": the values of the option and of KUMIKO_ISA.
std::string isa_names();

const char* bind_name(scheduler::Bind bind);
/// The pipelines that can be forced.
inline constexpr Pipeline kPipelines[] = {Pipeline::online, Pipeline::decode, Pipeline::two_pass,
                                          Pipeline::interleaved, Pipeline::three_pass};
/// nullptr for automatic.
const char* pipeline_name(Pipeline pipeline);
const char* precision_name(Precision precision);

}  // namespace kumiko
