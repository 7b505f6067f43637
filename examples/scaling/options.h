// SPDX-License-Identifier: Apache-2.0
// The command line.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace scaling {

enum class Mode { strong, weak };

inline constexpr char kNoMemory[] =
    "--tokens, --batch, --q-heads, --kv-heads and --head-dim make a call that does not fit in memory";

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

  // "4x12": domains x cores; "64x4x12": on so many ranks; empty: this machine is measured
  std::string simulate;
  // One A64FX at 2.0 GHz. f32: 85 % of 128 GFLOP/s a core; memory read as streams: 36 GB/s for one core, 225
  // GB/s for a CMG; waking and joining 48 threads.
  double core_gflops = 109, core_gbps = 36, domain_gbps = 225, start_us = 5;

  // Ranks only.
  bool mpi = false;        // measured under mpirun
  std::vector<int> ranks;  // empty: 1, 2, 4, ... and those of simulate or mpirun
  std::string link = "tofu-d";
  double link_gbps = 0, link_us = -1, message_us = -1;  // after parse(): of `link` where not given
  double overlap = 1;
  std::string distribution = "zigzag";  // contiguous | zigzag | cyclic
  std::string algorithm = "fastest";    // or a name of the cost model
  std::int64_t block_keys = 0;
};

/// What --simulate says; 0 ranks: domains x cores alone.
struct NodeShape {
  int ranks = 0, domains = 0, cores = 0;
};
NodeShape node_shape(const std::string& text);

/// Exit status to end with, or -1 to go on.
int parse(Mode mode, int argc, char** argv, Options* options);

}  // namespace scaling
