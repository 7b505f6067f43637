// SPDX-License-Identifier: Apache-2.0
#include "tools/bench/ways.h"

#include <utility>

#include "tools/bench/inside.h"

namespace kumiko::tools {
namespace {

// The reference ISA is plain C++ that rounds as the others do: 1.3 GFLOP/s on a core of a Zen 5, so that a
// larger call takes seconds.
constexpr double kReferenceFlops = 2e9;

std::string numbers(const std::vector<int>& cpus) {
  std::string text;
  for (const int cpu : cpus) text += (text.empty() ? "" : ",") + std::to_string(cpu);
  return text;
}

// An extension serves only bf16 products; for other types its rows are its base's.
std::string serving(const std::string& isa, DataType type) {
  return type == DataType::bf16 ? isa : base_isa(isa);
}

class Finder {
 public:
  Finder(const Options& options, const ContextOptions& context, Ways& ways)
      : context_(context), args_(bench::arguments(options.shape)), ways_(ways) {}

  /// Appends the plan of `pipeline` on `isa`.
  Status add(const std::string& isa, Pipeline pipeline, bool is_default) {
    if (!made_ || made_.isa() != isa) {
      ContextOptions options = context_;
      options.isa = isa;
      if (Status s = Context::create(options, &made_); !s.ok()) return s;
    }
    Way way;
    way.asked = args_.pipeline = pipeline;
    if (Status s = plan(made_, args_, &way.plan); !s.ok()) return s;
    way.isa = serving(isa, args_.q.dtype);
    way.pipeline = pipeline_of(way.plan);
    way.is_default = is_default;
    way.peak = bench::find_fma_row(way.isa);
    ways_.measured.push_back(std::move(way));
    return {};
  }

  /// Calls add(), or records why it cannot.
  void try_add(const std::string& isa, const std::string& name, Pipeline pipeline) {
    if (const Status s = add(isa, pipeline, false); !s.ok())
      ways_.left_out.push_back({isa, name, s.message()});
  }

 private:
  const ContextOptions& context_;
  AttentionArgs args_;
  Ways& ways_;
  Context made_;
};

// FLOP of all pairs, as if every query saw every key.
double most_flops(const bench::Shape& s) {
  return 2.0 * static_cast<double>(s.head_dim + s.v_head_dim) * static_cast<double>(s.batch * s.q_heads) *
         static_cast<double>(s.q_len) * static_cast<double>(s.kv_len);
}

}  // namespace

Status find_ways(const Options& options, Ways* ways) {
  Context first;
  if (Status s = Context::create(options.context, &first); !s.ok()) return s;
  const Settings settings = settings_of(first);
  if (!settings.foreign_topology.empty()) return {Code::unsupported, settings.foreign_topology};
  ways->threads = {settings.cpus, settings.executor};
  if (settings.executor == "serial") {
    if (options.context.num_threads > 1) {
      return {Code::invalid_argument, "num_threads is \"" + std::to_string(options.context.num_threads) +
                                          "\"; expected 1: the executor serial has one caller's thread"};
    }
    ways->threads.cpus.resize(1);  // One place per caller; here there is one caller.
  }

  ContextOptions context = options.context;
  context.cpus = numbers(ways->threads.cpus);  // Ceilings and ways are measured on the same cores.
  context.num_threads = static_cast<int>(ways->threads.cpus.size());
  Finder finder(options, context, *ways);
  const Pipeline given = options.pipeline != Pipeline::automatic ? options.pipeline : settings.pipeline;
  const bool is_default = given == Pipeline::automatic && !settings.is_isa_given;
  const std::string isa = first.isa();
  if (Status s = finder.add(isa, given, is_default); !s.ok()) return s;
  if (!options.compares) return {};

  if (given == Pipeline::automatic) {
    const std::string planned = ways->measured.front().pipeline;
    for (const auto& [name, pipeline] : pipelines()) {
      if (name != planned) finder.try_add(isa, name, pipeline);
    }
  }
  if (settings.is_isa_given) return {};
  const DataType type = options.shape.type;
  for (const std::string& other : host_isas()) {
    if (serving(other, type) == serving(isa, type)) continue;
    const std::string name = ways->measured.front().pipeline;
    if (other == "reference" && most_flops(options.shape) > kReferenceFlops) {
      ways->left_out.push_back({other, name, "plain C++ takes seconds here; --isa reference measures it"});
    } else {
      finder.try_add(other, name, given);
    }
  }
  return {};
}

}  // namespace kumiko::tools
