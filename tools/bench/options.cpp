// SPDX-License-Identifier: Apache-2.0
#include "tools/bench/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "tools/bench/bench.h"
#include "tools/bench/inside.h"

namespace kumiko::tools {
namespace {

// CLI11 puts the option's name before a validator's message.
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

CLI::Validator seconds() {
  return {[](std::string& text) {
            double value = 0;
            const bool is_right = CLI::detail::lexical_cast(text, value) && value >= 0.001 && value <= 60;
            return is_right ? "" : "\"" + text + "\"; expected seconds, 0.001 to 60";
          },
          ""};
}

/// An option that takes one of `names`.
CLI::Option* add_choice(CLI::App& app, const std::string& name, std::string& target,
                        const std::vector<std::string>& names, const std::string& what) {
  const std::string list = CLI::detail::join(names, "|");
  const auto check = [=](std::string& text) {
    const bool is_right = std::find(names.begin(), names.end(), text) != names.end();
    return is_right ? "" : "\"" + text + "\"; expected " + list;
  };
  return app.add_option(name, target, what)->check(CLI::Validator(check, ""))->type_name(list);
}

constexpr DataType kTypes[] = {DataType::f32, DataType::bf16, DataType::f16};

// Values that CLI11 fills in and that Options has in another form.
struct Raw {
  std::string type = "f32", layout = "bhsd", pipeline = "automatic";
  bool is_cold = false, is_warm = false;
};

void add_problem(CLI::App& app, bench::Shape& s, Raw& raw) {
  const auto size = [&](const std::string& name, std::int64_t& target, std::int64_t most,
                        const std::string& what) {
    return app.add_option(name, target, what)->check(whole(1, most))->type_name("N")->group("Problem");
  };
  constexpr std::int64_t kMost = std::int64_t{1} << 32, kDim = 576;
  s.kv_heads = s.kv_len = s.v_head_dim = 0;  // Not given.
  auto* const batch = size("--batch", s.batch, kMost, "Sequences")->capture_default_str();
  size("--q-heads", s.q_heads, kMost, "Query heads")->capture_default_str();
  size("--kv-heads", s.kv_heads, kMost, "Key/value heads (default: as many as query heads)");
  size("--q-len", s.q_len, kMost, "Queries a sequence")->capture_default_str();
  size("--kv-len", s.kv_len, kMost,
       "Keys a sequence has room for (default: the longest, or as many as queries)");
  app.add_option("--lengths", s.seqused_k, "Keys used of each sequence, such as 200,4000,1700; sets --batch")
      ->delimiter(',')
      ->check(whole(1, std::numeric_limits<std::int32_t>::max()))
      ->type_name("N,...")
      ->excludes(batch)
      ->group("Problem");
  size("--head-dim", s.head_dim, kDim, "Elements of a query or key")->capture_default_str();
  size("--v-head-dim", s.v_head_dim, kDim, "Elements of a value (default: as of a key)");
  std::vector<std::string> types;
  for (const DataType type : kTypes) types.push_back(type_name(type));
  add_choice(app, "--dtype", raw.type, types, "Element type of all tensors")
      ->capture_default_str()
      ->group("Problem");
  add_choice(app, "--layout", raw.layout, {"bhsd", "bshd"}, "Order in memory: batch, heads, sequence, dim")
      ->capture_default_str()
      ->group("Problem");
  app.add_flag("--causal", s.is_causal, "Queries see no later keys")->group("Problem");
  app.add_option("--window", s.window_left, "Keys before its own that a query sees")
      ->check(whole(0, kMost))
      ->type_name("N")
      ->group("Problem");
}

void add_machine(CLI::App& app, ContextOptions& c, Raw& raw) {
  const std::string group = "Machine (default: the KUMIKO_* variables, then this host)";
  app.add_option("--threads", c.num_threads, "Number of threads")
      ->check(whole(1, 1 << 20))
      ->type_name("N")
      ->group(group);
  std::vector<std::string> orders = {"automatic"};
  for (const auto& [name, pipeline] : pipelines()) orders.push_back(name);
  add_choice(app, "--isa", c.isa, isa_names(), "Instruction set")->group(group);
  add_choice(app, "--pipeline", raw.pipeline, orders, "Order of the steps of a task")->group(group);
  add_choice(app, "--executor", c.executor, executor_names(), "Threading backend")->group(group);
  app.add_option("--cpus", c.cpus, "CPUs the runtime may use, such as 12-23,36-47")
      ->type_name("LIST")
      ->group(group);
  add_choice(app, "--bind", c.bind, {"close", "spread", "none"}, "Threads to cores")->group(group);
  add_choice(app, "--policy", c.policy, {"heads_first", "flat"}, "Tasks to domains")->group(group);
}

void add_measurement(CLI::App& app, Options& o, Raw& raw) {
  const std::string group = "Measurement";
  app.add_flag("--compare", o.compares,
               "Every pipeline for the problem, and every instruction set of this machine, in turns")
      ->group(group);
  auto* const cold = app.add_flag("--cold", raw.is_cold,
                                  "Keys and values come from memory (default up to " +
                                      std::to_string(kColdQueries) + " queries a sequence)")
                         ->group(group);
  app.add_flag("--warm", raw.is_warm, "The same keys and values in every call, cached if they fit (default)")
      ->excludes(cold)
      ->group(group);
  app.add_flag("--base-pages", o.has_base_pages,
               "Tensors in pages of the base size, mostly 4 KiB, not in huge pages")
      ->group(group);
  app.add_option("--passes", o.passes, "Rounds of each row; figures are medians of them")
      ->check(whole(1, 1000))
      ->type_name("N")
      ->capture_default_str()
      ->group(group);
  app.add_option("--seconds", o.seconds, "Seconds of calls in a round, one call at least")
      ->check(seconds())
      ->type_name("S")
      ->capture_default_str()
      ->group(group);
  const std::string report = "Report";
  app.add_option("--json", o.json, "Also write everything into this file")->type_name("FILE")->group(report);
  app.add_flag("--explain", o.explains, "Also print the library's plan")->group(report);
}

void complete(const Raw& raw, Options& o) {
  bench::Shape& s = o.shape;
  if (s.kv_heads == 0) s.kv_heads = s.q_heads;
  std::int64_t longest = 0;
  for (const std::int32_t length : s.seqused_k) longest = std::max<std::int64_t>(longest, length);
  if (!s.seqused_k.empty()) s.batch = static_cast<std::int64_t>(s.seqused_k.size());
  if (s.kv_len == 0) s.kv_len = longest > 0 ? longest : s.q_len;
  if (longest > s.kv_len) {
    throw CLI::ValidationError("--lengths", "\"" + std::to_string(longest) +
                                                "\"; expected at most --kv-len, which is " +
                                                std::to_string(s.kv_len));
  }
  if (s.v_head_dim == 0) s.v_head_dim = s.head_dim;
  for (const DataType type : kTypes) {
    if (raw.type == type_name(type)) s.type = type;
  }
  s.bshd = raw.layout == "bshd";
  for (const auto& [name, pipeline] : pipelines()) {
    if (raw.pipeline == name) o.pipeline = pipeline;
  }
  o.data = raw.is_cold ? Data::cold : raw.is_warm ? Data::warm : Data::automatic;
  if (s.q_heads % s.kv_heads != 0) {
    throw CLI::ValidationError("--kv-heads", "\"" + std::to_string(s.kv_heads) +
                                                 "\"; expected a divisor of --q-heads, which is " +
                                                 std::to_string(s.q_heads));
  }
  if (o.compares && !o.context.isa.empty() && o.pipeline != Pipeline::automatic) {
    throw CLI::ValidationError(
        "--compare",
        "there is nothing to compare with both --isa and --pipeline; expected one of them at most");
  }
}

}  // namespace

const char* type_name(DataType type) {
  return type == DataType::f32 ? "f32" : type == DataType::bf16 ? "bf16" : "f16";
}

std::optional<int> parse(int argc, const char* const* argv, Options* options, std::ostream& out,
                         std::ostream& err) {
  CLI::App app{
      "Times attention of a given shape on this machine, checks the answer and says how far from the "
      "machine's limits it is."};
  app.footer(
      "Exit status: 0; 1 when an answer was wrong or a call failed; 2 when the options are wrong, or this "
      "machine cannot do it.");
  app.set_version_flag("--version", "kumiko " KUMIKO_VERSION);
  Raw raw;
  add_problem(app, options->shape, raw);
  add_machine(app, options->context, raw);
  add_measurement(app, *options, raw);
  try {
    app.parse(argc, argv);
    complete(raw, *options);
  } catch (const CLI::ParseError& error) {
    return app.exit(error, out, err) == 0 ? kOk : kCannot;
  }
  return std::nullopt;
}

}  // namespace kumiko::tools
