// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "tools/bench/machine.h"
#include "tools/bench/report.h"

namespace kumiko::tools {
namespace {

using Json = nlohmann::ordered_json;

Json problem(const bench::Shape& s) {
  Json json = {
      {"batch", s.batch},           {"q_heads", s.q_heads},       {"kv_heads", s.kv_heads},
      {"q_len", s.q_len},           {"kv_len", s.kv_len},         {"head_dim", s.head_dim},
      {"v_head_dim", s.v_head_dim}, {"dtype", type_name(s.type)}, {"layout", s.bshd ? "bshd" : "bhsd"},
      {"causal", s.is_causal}};
  json["lengths"] = s.seqused_k.empty() ? Json() : Json(s.seqused_k);
  json["window"] = s.window_left < 0 ? Json() : Json(s.window_left);
  return json;
}

Json spread(const Spread& s) {
  return {{"median", s.median}, {"min", s.least}, {"max", s.most}};
}

Json row(const Report& report, std::size_t i) {
  const Way& way = report.ways.measured[i];
  const Result& result = report.results[i];
  const bool counts = result.left_out < result.rounds;
  Json json = {{"isa", way.isa},
               {"pipeline", way.pipeline},
               {"default", way.is_default},
               {"seconds", spread(result.seconds)},
               {"gflops", report.work.flops / result.seconds.median * 1e-9},
               {"kv_gbps", report.work.bytes / result.seconds.median * 1e-9},
               {"rounds", result.rounds},
               {"rounds_above_ceiling", result.left_out}};
  json["peak_isa"] = way.peak->isa;
  json["peak_gflops"] = counts ? Json(result.ceilings.flops * 1e-9) : Json();
  json["read_gbps"] = counts ? Json(result.ceilings.bytes * 1e-9) : Json();
  json["bound"] = !counts                                        ? Json()
                  : result.ceilings.is_memory_bound(report.work) ? Json("memory")
                                                                 : Json("compute");
  json["limit_seconds"] = counts ? Json(result.ceilings.limit(report.work)) : Json();
  json["fraction"] = counts ? spread(result.fraction) : Json();
  if (report.options.explains) json["explain"] = way.plan.explain();
  return json;
}

}  // namespace

std::string json_report(const Report& report) {
  Json json;
  json["version"] = KUMIKO_VERSION;
  json["processor"] = processor_name();
  json["variables"] = variables();
  json["threads"] = report.ways.threads.cpus.size();
  json["cpus"] = report.ways.threads.cpus;
  json["executor"] = report.ways.threads.executor;
  json["problem"] = problem(report.options.shape);
  json["flop"] = report.work.flops;
  json["kv_bytes"] = report.work.bytes;
  json["data"] = report.options.is_cold() ? "cold" : "warm";
  json["pages"] = report.options.has_base_pages ? "base" : "huge";
  json["kv_copies"] = report.copies;
  json["kv_copies_bytes"] = report.copied_bytes;
  json["clock"] = report.clock == bench::Clock::cpu ? "cpu" : "wall";
  json["read_loop"] = report.read_loop;
  json["others_took_cores"] = report.others_took;
  json["rows"] = Json::array();
  for (std::size_t i = 0; i < report.results.size(); ++i) json["rows"].push_back(row(report, i));
  json["left_out"] = Json::array();
  for (const LeftOut& left : report.ways.left_out)
    json["left_out"].push_back({{"isa", left.isa}, {"pipeline", left.pipeline}, {"reason", left.reason}});
  // A variable may hold bytes that are no UTF-8, such as those of a file's name.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace kumiko::tools
