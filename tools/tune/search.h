// SPDX-License-Identifier: Apache-2.0
// The search: one number of the tuning after another, each candidate against the current number.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cpu.h"
#include "runtime/core_tuning.h"
#include "tools/tune/workload.h"

namespace kumiko::tune {

struct Effort {
  double window = 10e-3;  ///< Seconds of calls in one measurement.
  int rounds = 9;         ///< In each, every candidate is measured once on every workload.
  std::size_t cache_bytes = std::size_t{256} << 20;  ///< Of keys and values: decode reads from memory.
};

/// The value that one number was set to, and why.
struct Finding {
  const TuningField* field;
  std::int64_t before, after;
  double gain;  ///< Time with `before` over time with `after`: geometric mean over workloads, median over
                ///< rounds.
};

struct Result {
  CoreTuning tuning;
  std::vector<Finding> findings;
};

/// Called with what is searched, such as "avx2: decode_rows", and the progress of the whole search, 0 to 1.
using Progress = std::function<void(const std::string& what, double done)>;

/// Starts from `tuning`. A number is changed only if that is 2 % faster or more; decode_rows is found anew.
/// Errors: those of Context, plan and run; internal if a candidate changes a bit of an answer, or if no
/// temporary file can be written.
Status search(kernels::Isa isa, const CoreTuning& tuning, const Effort& effort, const Progress& progress,
              Result* result);

/// A section of a file for KUMIKO_TUNING.
std::string section(kernels::Isa isa, const Result& result);

}  // namespace kumiko::tune
