// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdio>

#include "tools/bench/machine.h"
#include "tools/bench/report.h"

namespace kumiko::tools {
namespace {

using Cells = std::vector<std::string>;

std::string formatted(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

// Two or three significant digits, or all digits before the point.
std::string number(double value) {
  return formatted(value < 0.1 ? "%.2g" : value < 10 ? "%.2f" : value < 100 ? "%.1f" : "%.0f", value);
}

struct Unit {
  const char* name;
  double seconds;
};
Unit unit_of(double seconds) {
  return seconds >= 1 ? Unit{"s", 1} : seconds >= 1e-3 ? Unit{"ms", 1e-3} : Unit{"us", 1e-6};
}

std::string time(double seconds) {
  const Unit unit = unit_of(seconds);
  return number(seconds / unit.seconds) + " " + unit.name;
}

std::string time(const Spread& seconds) {
  const Unit unit = unit_of(seconds.median);
  return time(seconds.median) + " (" + number(seconds.least / unit.seconds) + " to " +
         number(seconds.most / unit.seconds) + ")";
}

std::string table(const std::vector<Cells>& rows) {
  std::vector<std::size_t> width(rows.front().size());
  for (const Cells& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], row[i].size());
  }
  std::string text;
  for (const Cells& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i)
      line += row[i] + (i + 1 < row.size() ? std::string(width[i] - row[i].size() + 2, ' ') : "");
    text += line + "\n";
  }
  return text;
}

std::string products(const bench::FmaRow& peak) {
  return std::string(peak.isa).ends_with("_bf16") ? "bf16 dot products" : "multiply-adds";
}

Cells row(const Work& work, const Way& way, const Result& r) {
  Cells cells = {way.isa, way.pipeline + (way.is_default ? " *" : ""), time(r.seconds),
                 number(work.flops / r.seconds.median * 1e-9), number(work.bytes / r.seconds.median * 1e-9)};
  if (r.left_out == r.rounds) {
    cells.insert(cells.end(), {"-", "-", "-"});
  } else {
    cells.insert(cells.end(),
                 {r.ceilings.is_memory_bound(work) ? "read bandwidth" : products(*way.peak),
                  time(r.ceilings.limit(work)),
                  formatted("%.2f", r.fraction.median) + " (" + formatted("%.2f", r.fraction.least) + " to " +
                      formatted("%.2f", r.fraction.most) + ")"});
  }
  return cells;
}

/// ", 64 lengths of 200 to 4000 keys", or nothing.
std::string lengths(const std::vector<std::int32_t>& used) {
  if (used.empty()) return "";
  const auto [least, most] = std::minmax_element(used.begin(), used.end());
  return ", " + std::to_string(used.size()) + " lengths of " + std::to_string(*least) + " to " +
         std::to_string(*most) + " keys";
}

std::string heading(const Report& report) {
  const auto& threads = report.ways.threads;
  const bool alone = threads.cpus.size() == 1;
  std::string text = "kumiko-bench " KUMIKO_VERSION ", " + processor_name() + "\n";
  text += "threads: " + std::to_string(threads.cpus.size()) + (alone ? " on CPU " : " on CPUs ");
  for (std::size_t i = 0; i < threads.cpus.size(); ++i)
    text += (i > 0 ? "," : "") + std::to_string(threads.cpus[i]);
  text += ", executor " + threads.executor +
          (report.clock == bench::Clock::cpu ? "; times are CPU time" : "; times are wall time") + "\n";
  for (const std::string& variable : variables()) text += "variable: " + variable + "\n";

  const bench::Shape& s = report.options.shape;
  text += "problem: batch " + std::to_string(s.batch) + ", query heads " + std::to_string(s.q_heads) +
          ", KV heads " + std::to_string(s.kv_heads) + ", q_len " + std::to_string(s.q_len) + ", kv_len " +
          std::to_string(s.kv_len) + ", head_dim " + std::to_string(s.head_dim) + ", v_head_dim " +
          std::to_string(s.v_head_dim) + ", " + type_name(s.type) + ", " + (s.bshd ? "bshd" : "bhsd") +
          lengths(s.seqused_k) + (s.is_causal ? ", causal" : "") +
          (s.window_left >= 0 ? ", window " + std::to_string(s.window_left) : "") + "\n";
  text += "work: " + number(report.work.flops * 1e-9) + " GFLOP, " + gigabytes(report.work.bytes) +
          " of K and V\n";
  text += report.options.is_cold()
              ? "data: cold; calls go round " + std::to_string(report.copies) + " copies of K and V, " +
                    gigabytes(report.copied_bytes) + ", more than the caches hold"
              : "data: warm; one copy of K and V, " + gigabytes(report.copied_bytes) +
                    ", is read again and again, from caches as far as it fits";
  text += report.options.has_base_pages ? "; not in huge pages\n" : "\n";
  return text + "answer: every row right by fp64, before and after the measurement\n";
}

std::string ceilings(const Report& report) {
  std::string text;
  std::vector<const bench::FmaRow*> told;
  for (std::size_t i = 0; i < report.results.size(); ++i) {
    const bench::FmaRow* const peak = report.ways.measured[i].peak;
    const Result& r = report.results[i];
    if (r.left_out == r.rounds || std::find(told.begin(), told.end(), peak) != told.end()) continue;
    if (told.empty())
      text +=
          "ceilings: read bandwidth " + number(r.ceilings.bytes * 1e-9) + " GB/s (" + report.read_loop + ")";
    text += "\n          " + products(*peak) + " of " + peak->isa + " " + number(r.ceilings.flops * 1e-9) +
            " GFLOP/s";
    told.push_back(peak);
  }
  if (told.empty()) return "";
  return text +
         "\nlimit: the longer of work over products a second and bytes over bandwidth; "
         "both ceilings are measured around each round\n";
}

}  // namespace

std::string text_report(const Report& report) {
  std::vector<Cells> rows = {
      {"isa", "pipeline", "time of a call", "GFLOP/s", "KV GB/s", "bound by", "limit", "of the limit"}};
  bool has_default = false;
  std::string notes;
  for (std::size_t i = 0; i < report.results.size(); ++i) {
    const Way& way = report.ways.measured[i];
    const Result& r = report.results[i];
    rows.push_back(row(report.work, way, r));
    has_default = has_default || way.is_default;
    if (r.left_out > 0)
      notes += way.name() + ": " + std::to_string(r.left_out) + " of " + std::to_string(r.rounds) +
               " rounds left out: above their ceiling, which was not measured\n";
  }
  std::string text = heading(report) + "\n" + table(rows) + "\n";
  if (has_default) text += "* what the library chooses by itself\n";
  text += ceilings(report) + notes;
  for (const LeftOut& left : report.ways.left_out)
    text += left.pipeline + " on " + left.isa + " left out: " + left.reason + "\n";
  if (report.others_took > 0.05) {
    text += "The machine was not quiet: others took " + formatted("%.1f", report.others_took) +
            " cores meanwhile." +
            (report.clock == bench::Clock::wall ? " Wall time includes that: measure again." : "") + "\n";
  }
  if (report.options.explains) {
    for (const Way& way : report.ways.measured) text += "\n" + way.name() + "\n" + way.plan.explain();
  }
  return text;
}

}  // namespace kumiko::tools
