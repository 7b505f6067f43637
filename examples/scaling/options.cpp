// SPDX-License-Identifier: Apache-2.0
#include "options.h"

#include <CLI/CLI.hpp>

namespace scaling {

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
  app.add_option("--simulate", options->simulate,
                 "domains x cores, 4x12: predict from the plan's cost model instead of measuring")
      ->check(CLI::Validator(
          [](const std::string& text) {
            int domains = 0, cores = 0, end = 0;
            const bool is_ok = std::sscanf(text.c_str(), "%dx%d%n", &domains, &cores, &end) == 2 &&
                               static_cast<std::size_t>(end) == text.size() && domains > 0 && cores > 0 &&
                               domains <= 64 && cores <= 256;
            return is_ok ? std::string() : text + " is not DOMAINSxCORES, such as 4x12";
          },
          "DxC"))
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
  try {
    app.parse(argc, argv);
    if (options->q_heads % options->kv_heads != 0)
      throw CLI::ValidationError("--q-heads", "must be a multiple of --kv-heads");
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return -1;
}

}  // namespace scaling
