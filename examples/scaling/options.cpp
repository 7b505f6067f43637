// SPDX-License-Identifier: Apache-2.0
#include "options.h"

#include <CLI/CLI.hpp>
#include <cstdio>

namespace scaling {
namespace {

// A link for each rank, in each direction.
struct Preset {
  const char* name;
  double gbps, us, message_us;
};
constexpr Preset kPresets[] = {
    // One of a node's six Tofu-D interfaces, 6.8 GB/s, and the latency of a put, 0.5 us (Ajima et al., The
    // Tofu
    // Interconnect D, IEEE CLUSTER 2018). 0.1 us between messages is an assumption.
    {"tofu-d", 6.8, 0.5, 0.1},
    // 100 Gb/s are 12.5 GB/s. 3 us for MPI over RDMA and 0.2 us between messages are assumptions.
    {"ethernet-100g", 12.5, 3, 0.2},
};

// What the preset states and the command line does not.
void complete(Options* options) {
  for (const Preset& preset : kPresets) {
    if (options->link != preset.name) continue;
    if (options->link_gbps <= 0) options->link_gbps = preset.gbps;
    if (options->link_us < 0) options->link_us = preset.us;
    if (options->message_us < 0) options->message_us = preset.message_us;
  }
}

void add_links(CLI::App& app, Options* options) {
  const auto group = "Ranks, simulated or of MPI";
  app.add_flag("--mpi", options->mpi,
               "measure over the ranks of mpirun, each with as many threads as its cores or --threads say")
      ->group(group);
  app.add_option("--ranks", options->ranks, "rank counts, 1,8,64; default: powers of two and all")
      ->delimiter(',')
      ->check(CLI::PositiveNumber)
      ->group(group);
  app.add_option("--link", options->link,
                 "rates of a link: tofu-d (6.8 GB/s, 0.5 us), ethernet-100g (12.5, 3)")
      ->check(CLI::IsMember({"tofu-d", "ethernet-100g"}))
      ->group(group);
  app.add_option("--link-gbps", options->link_gbps,
                 "what a rank sends and at once receives; default: --link's")
      ->check(CLI::PositiveNumber)
      ->default_str("")
      ->group(group);
  app.add_option("--link-us", options->link_us, "latency of a message; default: --link's")
      ->check(CLI::NonNegativeNumber)
      ->default_str("")
      ->group(group);
  app.add_option("--message-us", options->message_us,
                 "least time between two messages of a rank; default: --link's")
      ->check(CLI::NonNegativeNumber)
      ->default_str("")
      ->group(group);
  app.add_option("--overlap", options->overlap, "share of a transfer during which a rank computes")
      ->check(CLI::Range(0.0, 1.0))
      ->group(group);
  app.add_option("--distribution", options->distribution, "rows and keys of a rank")
      ->check(CLI::IsMember({"contiguous", "zigzag", "cyclic"}))
      ->group(group);
  app.add_option("--algorithm", options->algorithm, "how ranks work together")
      ->check(CLI::IsMember({"fastest", "ring", "broadcast", "states", "head_parallel"}))
      ->group(group);
  app.add_option(
         "--block-keys", options->block_keys,
         "most keys that travel as one block, a multiple of 512, with memory for two; 0: as the library")
      ->check(CLI::Range(0, 1 << 20))
      ->group(group);
}

}  // namespace

NodeShape node_shape(const std::string& text) {
  NodeShape shape;
  int end = 0;
  const bool has_ranks =
      std::sscanf(text.c_str(), "%dx%dx%d%n", &shape.ranks, &shape.domains, &shape.cores, &end) == 3;
  if (!has_ranks) {
    shape = {};
    if (std::sscanf(text.c_str(), "%dx%d%n", &shape.domains, &shape.cores, &end) != 2) return {};
  }
  const bool is_ok = static_cast<std::size_t>(end) == text.size() && (!has_ranks || shape.ranks > 0) &&
                     shape.ranks <= 1 << 16 && shape.domains > 0 && shape.domains <= 64 && shape.cores > 0 &&
                     shape.cores <= 256;
  return is_ok ? shape : NodeShape{};
}

int parse(Mode mode, int argc, char** argv, Options* options) {
  CLI::App app(mode == Mode::strong ? "Strong scaling: the same attention call on more and more threads."
                                    : "Weak scaling: the call grows with the threads, a share for each.");
  app.option_defaults()->always_capture_default();
  app.add_option("--workload", options->workload,
                 "prefill: one causal prompt; decode: a batch of single queries; mixed: both, 4 prompts and "
                 "60 queries")
      ->check(CLI::IsMember({"prefill", "decode", "mixed"}));
  app.add_option("--threads", options->threads,
                 "thread counts, 1,2,4; default: powers of two and whole domains")
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  app.add_option("--executors", options->executors, "executors to compare")
      ->delimiter(',')
      ->check(CLI::IsMember({"openmp", "tbb", "serial"}));
  app.add_option("--binds", options->binds, "bindings to compare")
      ->delimiter(',')
      ->check(CLI::IsMember({"close", "spread", "none"}));
  app.add_option("--tokens", options->tokens, "length of the prompt, or keys that decode reads")
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--q-heads", options->q_heads, "query heads")->check(CLI::Range(1, 4096));
  app.add_option("--kv-heads", options->kv_heads,
                 "key/value heads; weak scaling of prefill: one for each thread")
      ->check(CLI::Range(1, 4096));
  app.add_option("--head-dim", options->head_dim, "head dimension")->check(CLI::Range(1, 576));
  app.add_option("--batch", options->batch, "sequences that decode; weak scaling: for each thread")
      ->check(CLI::Range(1, 4096));
  app.add_option("--seconds", options->seconds, "measuring time for each point")
      ->check(CLI::Range(0.001, 600.0));
  app.add_option("--json", options->json, "also write the points here, for plot.py");
  const auto simulation = "Simulation";
  app.add_option(
         "--simulate", options->simulate,
         "domains x cores, 4x12: predict from the plan's cost model instead of measuring; ranks x domains "
         "x cores, 64x4x12: on so many ranks, from that of the links, too")
      ->check(CLI::Validator(
          [](const std::string& text) {
            const NodeShape shape = node_shape(text);
            return shape.cores > 0
                       ? std::string()
                       : text + " is not DOMAINSxCORES or RANKSxDOMAINSxCORES, such as 4x12 or 64x4x12";
          },
          "[Rx]DxC"))
      ->group(simulation);
  app.add_option("--core-gflops", options->core_gflops, "rate of one core in the pipeline")
      ->check(CLI::PositiveNumber)
      ->group(simulation);
  app.add_option("--core-gbps", options->core_gbps, "reading rate of one core alone")
      ->check(CLI::PositiveNumber)
      ->group(simulation);
  app.add_option("--domain-gbps", options->domain_gbps, "reading rate of a domain's cores together")
      ->check(CLI::PositiveNumber)
      ->group(simulation);
  app.add_option("--start-us", options->start_us, "waking and joining the threads, once per call")
      ->check(CLI::NonNegativeNumber)
      ->group(simulation);
  add_links(app, options);
  try {
    app.parse(argc, argv);
    if (options->q_heads % options->kv_heads != 0)
      throw CLI::ValidationError("--q-heads", "must be a multiple of --kv-heads");
    if (options->block_keys % 512 != 0)
      throw CLI::ValidationError("--block-keys", "must be a multiple of 512");
    if (options->workload == "mixed" && node_shape(options->simulate).ranks > 0)
      throw CLI::ValidationError("--workload",
                                 "mixed is not predicted for ranks, expected prefill or decode");
    if (options->mpi && options->workload == "mixed")
      throw CLI::ValidationError("--workload",
                                 "mixed is not measured over ranks, expected prefill or decode");
    if (options->mpi && !options->simulate.empty())
      throw CLI::ValidationError("--mpi", "measures; expected no --simulate");
    complete(options);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return -1;
}

}  // namespace scaling
