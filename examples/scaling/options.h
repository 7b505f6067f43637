// SPDX-License-Identifier: Apache-2.0
// The command line.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace scaling {

enum class Mode { strong, weak };

struct Options {
  std::string workload = "prefill";  // prefill | decode | mixed
  std::vector<int> threads;          // empty: 1, 2, 4, ... and every whole number of domains
  std::vector<std::string> executors = {"openmp", "tbb"};
  std::vector<std::string> binds = {"close", "spread"};
  std::int64_t tokens = 2048;
  std::int64_t q_heads = 32, kv_heads = 8, head_dim = 128;
  std::int64_t batch = 8;  // for decode
  double seconds = 0.5;    // of measurement for each point
  std::string json;

  std::string simulate;  // "4x12": domains x cores; empty: this machine is measured
  // One A64FX at 2.0 GHz. f32: 85 % of 128 GFLOP/s a core; memory read as streams: 36 GB/s for one core, 225
  // GB/s for a CMG; waking and joining 48 threads.
  double core_gflops = 109, core_gbps = 36, domain_gbps = 225, start_us = 5;
};

/// Exit status to end with, or -1 to go on.
int parse(Mode mode, int argc, char** argv, Options* options);

}  // namespace scaling
