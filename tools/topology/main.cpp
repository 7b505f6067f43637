// SPDX-License-Identifier: Apache-2.0
// kumiko-topology: prints the machine as the runtime sees it, which core each thread would take, and where
// the tasks of one attention problem would go; draws the same as SVG. Starts no threads and touches no
// tensors.
#include <CLI/CLI.hpp>
#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

#include "runtime/config.h"
#include "tools/topology/report.h"
#include "tools/write_file.h"

namespace {

struct Options {
  kumiko::ContextOptions context;
  std::int64_t batch = 1, heads = 32, kv_heads = 8, q_len = 1024, kv_len = 0, head_dim = 128, window = -1;
  bool is_causal = false;
  std::vector<std::int32_t> lengths;
  std::string svg;
};

void add_options(CLI::App& app, Options& o) {
  const CLI::Range positive(std::int64_t{1}, std::int64_t{1} << 32);
  const auto set = [](std::string& target) { return [&](const std::string& value) { target = value; }; };
  const std::string machine = "Machine (default: the KUMIKO_* variables, then this host)";
  const auto add = [&](const std::string& name, std::string& target, const std::string& what) {
    app.add_option_function<std::string>(name, set(target), what)->group(machine);
  };
  add("--topology", o.context.topology,
      "hwloc XML file or synthetic description such as 'numa:4 core:12 pu:1'");
  add("--cpus", o.context.cpus, "CPUs the runtime may use, such as 12-23,36-47");
  add("--bind", o.context.bind, "close | spread | none");
  add("--policy", o.context.policy, "heads_first | flat");
  add("--executor", o.context.executor, "openmp | tbb | serial");
  add("--isa", o.context.isa, kumiko::isa_names());
  app.add_option("--threads", o.context.num_threads, "Number of threads")
      ->check(CLI::Range(1, 1 << 20))
      ->group(machine);
  const std::string problem = "Problem";
  app.add_option("--batch", o.batch, "Sequences")->check(positive)->capture_default_str()->group(problem);
  app.add_option("--heads", o.heads, "Query heads")->check(positive)->capture_default_str()->group(problem);
  app.add_option("--kv-heads", o.kv_heads, "Key/value heads")
      ->check(positive)
      ->capture_default_str()
      ->group(problem);
  app.add_option("--q-len", o.q_len, "Queries a sequence")
      ->check(positive)
      ->capture_default_str()
      ->group(problem);
  app.add_option("--kv-len", o.kv_len, "Keys a sequence (default: as many as queries)")
      ->check(positive)
      ->group(problem);
  app.add_option("--head-dim", o.head_dim, "Elements a head")
      ->check(positive)
      ->capture_default_str()
      ->group(problem);
  app.add_option("--window", o.window, "Keys before its own that a query sees")
      ->check(CLI::NonNegativeNumber)
      ->group(problem);
  app.add_flag("--causal", o.is_causal, "Queries see no later keys")->group(problem);
  app.add_option("--lengths", o.lengths, "Keys used of each sequence, separated by commas")
      ->delimiter(',')
      ->group(problem);
  app.add_option("--svg", o.svg, "Also draw domains, cores and tasks into this file");
}

kumiko::AttentionArgs arguments(const Options& o) {
  const std::int64_t keys = o.kv_len > 0 ? o.kv_len : o.q_len;
  kumiko::AttentionArgs args;
  args.q = kumiko::ConstTensor::bhsd(nullptr, o.batch, o.heads, o.q_len, o.head_dim);
  args.k = args.v = kumiko::ConstTensor::bhsd(nullptr, o.batch, o.kv_heads, keys, o.head_dim);
  args.out = kumiko::Tensor::bhsd(nullptr, o.batch, o.heads, o.q_len, o.head_dim);
  args.is_causal = o.is_causal;
  args.window_left = o.window;
  args.seqused_k = o.lengths.empty() ? nullptr : o.lengths.data();
  return args;
}

constexpr int kFailed = 1, kWrongOptions = 2;

int fail(const std::string& message, int status = kFailed) {
  std::cerr << "kumiko-topology: " << message << "\n";
  return status;
}

/// What the library refuses is an option's value, but for a wrong KUMIKO_* variable or a lack of memory.
int fail(const kumiko::Status& s) {
  const bool is_option = s.code() == kumiko::Code::invalid_argument || s.code() == kumiko::Code::unsupported;
  return fail(s.message(), is_option ? kWrongOptions : kFailed);
}

int run(Options options) {
  if (!options.lengths.empty() && static_cast<std::int64_t>(options.lengths.size()) != options.batch) {
    return fail("--lengths has " + std::to_string(options.lengths.size()) +
                    " numbers; expected one for each of " + std::to_string(options.batch) + " sequences",
                kWrongOptions);
  }
  kumiko::Config config;
  if (const kumiko::Status s = kumiko::load_config(options.context, &config); !s.ok()) return fail(s);
  options.context.executor = "serial";  // It has the same seats as the others and starts no threads.
  kumiko::Context context;
  if (const kumiko::Status s = kumiko::Context::create(options.context, &context); !s.ok()) return fail(s);
  kumiko::Plan plan;
  if (const kumiko::Status s = kumiko::plan(context, arguments(options), &plan); !s.ok()) return fail(s);
  const kumiko::tools::View view(context, plan, config.executor->name);
  std::cout << kumiko::tools::text_report(view) << std::flush;
  if (!std::cout) return fail("the standard output cannot be written");
  if (options.svg.empty() || kumiko::tools::write_file(options.svg, kumiko::tools::svg_picture(view)))
    return 0;
  return fail("--svg: '" + options.svg + "' cannot be written; expected a file in a folder that can");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Prints what Kumiko makes of a machine and where the tasks of an attention problem would go."};
  app.footer(
      "Exit status: 0; 1 when the report or the picture cannot be written or a KUMIKO_* variable is wrong; "
      "2 when the options are wrong, or this machine cannot do it.");
  app.set_version_flag("--version", "kumiko " KUMIKO_VERSION);
  Options options;
  add_options(app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kWrongOptions;
  }
  return run(std::move(options));
}
