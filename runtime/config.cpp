// SPDX-License-Identifier: Apache-2.0
#include "runtime/config.h"

#include <cctype>
#include <charconv>
#include <cstdlib>
#include <string_view>

#include "kernels/pipelines/pipeline.h"

namespace kumiko {
namespace {

Setting find_setting(const char* option, const std::string& given, const char* variable) {
  Setting setting{option, given};
  if (setting.is_set()) return setting;
  if (const char* text = std::getenv(variable); text && *text)
    setting = {variable, text, Code::invalid_environment};
  return setting;
}

template <class Rows>
std::string names_of(const Rows& rows) {
  std::string names;
  for (const auto& row : rows) names += (names.empty() ? "" : " | ") + std::string(row.name);
  return names;
}

Status load_num_threads(const ContextOptions& options, Config* config) {
  const Setting setting =
      find_setting("num_threads", options.num_threads == 0 ? "" : std::to_string(options.num_threads),
                   "KUMIKO_NUM_THREADS");
  config->num_threads_setting = setting;
  if (!setting.is_set()) return {};
  const char* end = setting.value.data() + setting.value.size();
  const auto [stop, failure] = std::from_chars(setting.value.data(), end, config->num_threads);
  if (failure != std::errc() || stop != end || config->num_threads < 1)
    return setting.error("a number of threads, 1 or more");
  return {};
}

Status load_isa(const ContextOptions& options, Config* config) {
  const Setting setting = find_setting("isa", options.isa, "KUMIKO_ISA");
  if (!setting.is_set()) return {};
  config->isa = kernels::parse_isa(setting.value);
  if (!config->isa) return setting.error(isa_names());
  if (!(kernels::host_isas() & kernels::bit(*config->isa)) || !kernels::find_softmax(*config->isa)) {
    return {Code::unsupported,
            setting.name + " is \"" + setting.value + "\"; this machine or build lacks " +
                kernels::requirement(*config->isa) + "; expected one it has, such as " +
                kernels::name(kernels::best_isa(kernels::host_isas(), kernels::host_core()))};
  }
  return {};
}

/// OMP_PROC_BIND holds here as for every OpenMP program, unless ContextOptions::bind is set. If it
/// contradicts KUMIKO_BIND, neither can be preferred, so that is an error. (OMP_PLACES takes effect through
/// libgomp, as the CPUs that may be used: topology_hwloc.cpp.)
Status load_omp_proc_bind(const Setting& bind, Config* config) {
  const bool is_option = bind.is_set() && bind.code == Code::invalid_argument;
  const Setting omp = find_setting("", "", "OMP_PROC_BIND");
  if (is_option || !omp.is_set()) return {};
  // A list has one value per level of nesting; the library's team is the outermost.
  std::string value;
  for (const char c : omp.value.substr(0, omp.value.find(','))) {
    if (!std::isspace(static_cast<unsigned char>(c)))
      value += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  std::optional<scheduler::Bind> wanted;
  if (value == "false") wanted = scheduler::Bind::none;
  if (value == "close" || value == "true") wanted = scheduler::Bind::close;
  if (value == "spread") wanted = scheduler::Bind::spread;
  if (!wanted) {
    return omp.error("false | true | close | spread; ContextOptions::bind takes precedence over it");
  }
  // "true" asks for binding but not for a particular one.
  const bool agrees = !config->bind || *config->bind == *wanted ||
                      (value == "true" && *config->bind != scheduler::Bind::none);
  if (!agrees) {
    return bind.error(std::string(bind_name(*wanted)) + " or nothing, as OMP_PROC_BIND is \"" + omp.value +
                      "\"");
  }
  if (!config->bind) config->bind = wanted;
  return {};
}

/// The stack size of OpenMP's threads as libgomp reads it: "64M", " 512 k ", a number of KiB. Like libgomp,
/// ignores a value that it cannot read.
std::size_t openmp_stack_bytes() {
  std::string text;
  for (const char* variable : {"OMP_STACKSIZE", "GOMP_STACKSIZE"}) {
    for (const char c : find_setting("", "", variable).value)
      if (!std::isspace(static_cast<unsigned char>(c)))
        text += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    if (!text.empty()) break;
  }
  std::size_t size = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, failure] = std::from_chars(text.data(), end, size);
  const std::string_view unit(stop, static_cast<std::size_t>(end - stop));
  const int shift = unit == "b"                   ? 0
                    : unit.empty() || unit == "k" ? 10
                    : unit == "m"                 ? 20
                    : unit == "g"                 ? 30
                                                  : -1;
  if (failure != std::errc() || shift < 0 || size << shift >> shift != size) return 0;
  return size << shift;
}

Status load_scheduling(const ContextOptions& options, Config* config) {
  const Setting cpus = config->cpus_setting = find_setting("cpus", options.cpus, "KUMIKO_CPUS");
  if (cpus.is_set()) {
    std::string why;
    const auto list = scheduler::parse_cpu_list(cpus.value, why);
    if (!list) return cpus.error("a list of CPU numbers such as 0-11,24 (" + why + ")");
    config->cpus = *list;
  }
  const Setting bind = find_setting("bind", options.bind, "KUMIKO_BIND");
  if (bind.is_set()) {
    if (bind.value == "close") {
      config->bind = scheduler::Bind::close;
    } else if (bind.value == "spread") {
      config->bind = scheduler::Bind::spread;
    } else if (bind.value == "none") {
      config->bind = scheduler::Bind::none;
    } else {
      return bind.error("close | spread | none");
    }
  }
  if (Status s = load_omp_proc_bind(bind, config); !s.ok()) return s;
  config->openmp_stack_bytes = openmp_stack_bytes();
  const Setting executor = find_setting("executor", options.executor, "KUMIKO_EXECUTOR");
  config->executor =
      executor.is_set() ? scheduler::find_executor(executor.value) : &scheduler::executors().front();
  if (!config->executor) return executor.error(names_of(scheduler::executors()));
  const Setting policy = find_setting("policy", options.policy, "KUMIKO_POLICY");
  config->policy = policy.is_set() ? scheduler::find_policy(policy.value) : &scheduler::policies().front();
  if (!config->policy) return policy.error(names_of(scheduler::policies()));
  config->topology_setting = find_setting("topology", options.topology, "KUMIKO_TOPOLOGY");
  config->trace_setting = find_setting("trace", options.trace, "KUMIKO_TRACE");
  config->tuning_setting = find_setting("tuning", options.tuning, "KUMIKO_TUNING");
  return {};
}

Status load_rest(Config* config) {
  const Setting pipeline = find_setting("", "", "KUMIKO_PIPELINE");
  if (pipeline.is_set() && pipeline.value != "automatic") {
    for (const Pipeline p : kPipelines) {
      if (pipeline.value == pipeline_name(p)) config->pipeline = p;
    }
    if (config->pipeline == Pipeline::automatic) {
      return pipeline.error("automatic | " + names_of(kernels::pipeline_rows()));
    }
  }
  const Setting precision = find_setting("", "", "KUMIKO_PRECISION");
  if (precision.is_set() && precision.value != "automatic") {
    for (const Precision p : {Precision::standard, Precision::half, Precision::int8}) {
      if (precision.value == precision_name(p)) config->precision = p;
    }
    if (config->precision == Precision::automatic)
      return precision.error("automatic | standard | half | int8");
  }
  const Setting spin = find_setting("", "", "KUMIKO_SPIN_US");
  if (spin.is_set()) {
    constexpr int kLongest = 1'000'000;
    int us = -1;
    const char* end = spin.value.data() + spin.value.size();
    const auto [stop, failure] = std::from_chars(spin.value.data(), end, us);
    if (failure != std::errc() || stop != end || us < 0 || us > kLongest)
      return spin.error("microseconds, 0.." + std::to_string(kLongest));
    config->spin = std::chrono::microseconds(us);
  }
  const Setting verbose = find_setting("", "", "KUMIKO_VERBOSE");
  if (verbose.is_set() && verbose.value != "0" && verbose.value != "1") return verbose.error("0 | 1");
  config->verbose = verbose.value == "1";
  return {};
}

}  // namespace

std::string isa_names() {
  std::string names;
  for (const kernels::Isa isa : kernels::kIsas)
    names += (names.empty() ? "" : " | ") + std::string(name(isa));
  return names;
}

const char* bind_name(scheduler::Bind bind) {
  switch (bind) {
    case scheduler::Bind::close:
      return "close";
    case scheduler::Bind::spread:
      return "spread";
    case scheduler::Bind::none:
      break;
  }
  return "none";
}

const char* pipeline_name(Pipeline pipeline) {
  switch (pipeline) {
    case Pipeline::online:
      return "online";
    case Pipeline::decode:
      return "decode";
    case Pipeline::two_pass:
      return "two_pass";
    case Pipeline::interleaved:
      return "interleaved";
    case Pipeline::three_pass:
      return "three_pass";
    case Pipeline::automatic:
      break;
  }
  return nullptr;
}

const char* precision_name(Precision precision) {
  switch (precision) {
    case Precision::standard:
      return "standard";
    case Precision::half:
      return "half";
    case Precision::int8:
      return "int8";
    case Precision::automatic:
      break;
  }
  return nullptr;
}

Status load_config(const ContextOptions& options, Config* config) {
  Config loaded;
  if (Status s = load_num_threads(options, &loaded); !s.ok()) return s;
  if (Status s = load_isa(options, &loaded); !s.ok()) return s;
  if (Status s = load_scheduling(options, &loaded); !s.ok()) return s;
  if (Status s = load_rest(&loaded); !s.ok()) return s;
  *config = std::move(loaded);
  return {};
}

}  // namespace kumiko
