// SPDX-License-Identifier: Apache-2.0
#include "options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>

namespace scaling {
namespace {

// In place of CLI11's own checks, which take nan. CLI11 puts the option's name before the message.
CLI::Validator number(double least, double most, const std::string& expected) {
  return {[=](std::string& text) {
            double value = 0;
            const bool is_right = CLI::detail::lexical_cast(text, value) && value >= least && value <= most;
            return is_right ? "" : "\"" + text + "\"; expected " + expected;
          },
          ""};
}

CLI::Validator rate() {
  return number(1e-6, 1e12, "a number, 1e-6 to 1e12");
}

CLI::Validator microseconds() {
  return number(0, 1e9, "microseconds, 0 to 1e9");
}

CLI::Validator whole(std::int64_t least, std::int64_t most) {
  const std::string range = std::to_string(least) + " to " + std::to_string(most);
  return {[=](std::string& text) {
            std::int64_t value = 0;
            const char* const end = text.data() + text.size();
            const auto [stop, failure] = std::from_chars(text.data(), end, value);
            const bool is_right = failure == std::errc() && stop == end && value >= least && value <= most;
            return is_right ? "" : "\"" + text + "\"; expected a whole number, " + range;
          },
          ""};
}

// A link for each rank, in each direction.
struct Preset {
  const char* name;
  double gbps, us, message_us;
};
constexpr int kMostRanks = 1 << 16;
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
      ->check(whole(1, kMostRanks))
      ->group(group);
  app.add_option("--link", options->link,
                 "rates of a link: tofu-d (6.8 GB/s, 0.5 us), ethernet-100g (12.5, 3)")
      ->check(CLI::IsMember({"tofu-d", "ethernet-100g"}))
      ->group(group);
  app.add_option("--link-gbps", options->link_gbps,
                 "what a rank sends and at once receives; default: --link's")
      ->check(rate())
      ->default_str("")
      ->group(group);
  app.add_option("--link-us", options->link_us, "latency of a message; default: --link's")
      ->check(microseconds())
      ->default_str("")
      ->group(group);
  app.add_option("--message-us", options->message_us,
                 "least time between two messages of a rank; default: --link's")
      ->check(microseconds())
      ->default_str("")
      ->group(group);
  app.add_option("--overlap", options->overlap, "share of a transfer during which a rank computes")
      ->check(number(0, 1, "a share, 0 to 1"))
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
      ->check(whole(0, 1 << 20))
      ->group(group);
}

}  // namespace

NodeShape node_shape(const std::string& text) {
  std::vector<int> numbers;
  const char *at = text.data(), *const end = at + text.size();
  do {
    const auto [stop, failure] = std::from_chars(at, end, numbers.emplace_back());
    if (failure != std::errc() || (stop != end && *stop != 'x')) return {};
    at = stop + 1;
  } while (at <= end && numbers.size() < 4);
  if (at <= end || numbers.size() < 2 || numbers.size() > 3) return {};
  const bool has_ranks = numbers.size() == 3;
  const NodeShape shape{has_ranks ? numbers[0] : 0, numbers[has_ranks ? 1 : 0], numbers.back()};
  const bool is_ok = (!has_ranks || shape.ranks > 0) && shape.ranks <= kMostRanks && shape.domains > 0 &&
                     shape.domains <= 64 && shape.cores > 0 && shape.cores <= 256;
  return is_ok ? shape : NodeShape{};
}

int parse(Mode mode, int argc, char** argv, Options* options) {
  CLI::App app(mode == Mode::strong ? "Strong scaling: the same attention call on more and more threads."
                                    : "Weak scaling: the call grows with the threads, a share for each.");
  app.footer("Exit status: 0; 1 when a call fails or a file cannot be written; 2 for wrong options.");
  app.option_defaults()->always_capture_default();
  app.add_option("--workload", options->workload,
                 "prefill: one causal prompt; decode: a batch of single queries; mixed: both, 4 prompts and "
                 "60 queries")
      ->check(CLI::IsMember({"prefill", "decode", "mixed"}));
  app.add_option("--threads", options->threads,
                 "thread counts, 1,2,4; default: powers of two and whole domains")
      ->delimiter(',')
      ->check(whole(1, 1 << 20));
  app.add_option("--executors", options->executors, "executors to compare")
      ->delimiter(',')
      ->check(CLI::IsMember({"openmp", "tbb", "serial"}));
  app.add_option("--binds", options->binds, "bindings to compare")
      ->delimiter(',')
      ->check(CLI::IsMember({"close", "spread", "none"}));
  app.add_option("--tokens", options->tokens, "length of the prompt, or keys that decode reads")
      ->check(whole(1, 1 << 20));
  app.add_option("--q-heads", options->q_heads, "query heads")->check(whole(1, 4096));
  app.add_option("--kv-heads", options->kv_heads,
                 "key/value heads; weak scaling of prefill: one for each thread")
      ->check(whole(1, 4096));
  app.add_option("--head-dim", options->head_dim, "head dimension")->check(whole(1, 576));
  app.add_option("--batch", options->batch, "sequences that decode; weak scaling: for each thread")
      ->check(whole(1, 4096));
  app.add_option("--seconds", options->seconds, "measuring time for each point")
      ->check(number(0.001, 600, "seconds, 0.001 to 600"));
  app.add_option("--json", options->json, "also write the points here, for plot.py");
  const auto simulation = "Simulation";
  app.add_option(
         "--simulate", options->simulate,
         "domains x cores, 4x12: predict from the plan's cost model instead of measuring; ranks x domains "
         "x cores, 64x4x12: on so many ranks, from that of the links, too")
      ->check(CLI::Validator(
          [](const std::string& text) {
            const NodeShape shape = node_shape(text);
            return shape.cores > 0 ? std::string()
                                   : "\"" + text +
                                         "\"; expected DOMAINSxCORES or RANKSxDOMAINSxCORES, such as 4x12 or "
                                         "64x4x12, up to "
                                         "65536 ranks of 64 domains of 256 cores";
          },
          "[Rx]DxC"))
      ->group(simulation);
  app.add_option("--core-gflops", options->core_gflops, "rate of one core in the pipeline")
      ->check(rate())
      ->group(simulation);
  app.add_option("--core-gbps", options->core_gbps, "reading rate of one core alone")
      ->check(rate())
      ->group(simulation);
  app.add_option("--domain-gbps", options->domain_gbps, "reading rate of a domain's cores together")
      ->check(rate())
      ->group(simulation);
  app.add_option("--start-us", options->start_us, "waking and joining the threads, once per call")
      ->check(microseconds())
      ->group(simulation);
  add_links(app, options);
  try {
    app.parse(argc, argv);
    if (options->q_heads % options->kv_heads != 0)
      throw CLI::ValidationError("--q-heads", std::to_string(options->q_heads) +
                                                  "; expected a multiple of --kv-heads, which is " +
                                                  std::to_string(options->kv_heads));
    if (options->block_keys % 512 != 0)
      throw CLI::ValidationError("--block-keys",
                                 std::to_string(options->block_keys) + "; expected a multiple of 512");
    if (options->workload == "mixed" && node_shape(options->simulate).ranks > 0)
      throw CLI::ValidationError("--workload",
                                 "mixed is not predicted for ranks, expected prefill or decode");
    if (options->mpi && options->workload == "mixed")
      throw CLI::ValidationError("--workload",
                                 "mixed is not measured over ranks, expected prefill or decode");
    if (options->mpi && !options->simulate.empty())
      throw CLI::ValidationError("--mpi", "measures; expected no --simulate");
    const auto has_serial = std::count(options->executors.begin(), options->executors.end(), "serial") > 0;
    const auto ones = std::count(options->threads.begin(), options->threads.end(), 1);
    if (has_serial && options->simulate.empty() && ones != std::ssize(options->threads))
      throw CLI::ValidationError("--executors",
                                 "serial computes on one thread; expected --threads 1 with it");
    if (options->mpi && options->threads.size() > 1)
      throw CLI::ValidationError("--threads", std::to_string(options->threads.size()) +
                                                  " counts; expected one, that of each rank, with --mpi");
    if (!options->mpi && node_shape(options->simulate).ranks == 0 && !options->ranks.empty())
      throw CLI::ValidationError("--ranks", "expected --mpi or --simulate RANKSxDOMAINSxCORES with it");
    complete(options);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return -1;
}

}  // namespace scaling
