// SPDX-License-Identifier: Apache-2.0
#include "tools/bench/bench.h"

#include <ostream>
#include <string>
#include <vector>

#include "tools/bench/machine.h"
#include "tools/bench/measure.h"
#include "tools/bench/report.h"
#include "tools/bench/ways.h"
#include "tools/write_file.h"

namespace kumiko::tools {
namespace {

// One line of a terminal, overwritten repeatedly and cleared at the end.
class Progress {
 public:
  Progress(std::ostream& err, bool is_shown) : err_(err), is_shown_(is_shown) {}
  ~Progress() { say(""); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void say(const std::string& text) {
    if (is_shown_) err_ << "\r\033[K" << text << std::flush;
  }

 private:
  std::ostream& err_;
  bool is_shown_;
};

// "" or why the file cannot be written.
std::string unwritable(const std::string& path) {
  return is_writable(path)
             ? ""
             : "--json: \"" + path + "\" cannot be written; expected a file in a folder that can";
}

// The least memory of a plan while it is made (kMaxTasks of runtime/plan.h): a task for each KV head.
double plan_bytes(const bench::Shape& shape) {
  return 200.0 * static_cast<double>(shape.batch) * static_cast<double>(shape.kv_heads);
}

// "" or a sentence on what does not fit. Called first without workspaces, whose size only a plan gives: where
// tensors are absurdly large, so is their plan.
std::string too_large(const Options& options, double workspaces) {
  const double memory = available_memory(), rest = plan_bytes(options.shape) + workspaces;
  const double needed = bench::Problem::memory_bytes(options.shape, options.cache_bytes()) + rest;
  if (memory == 0 || needed <= memory) return "";
  std::string text = "this shape takes " + gigabytes(needed) + " of memory (q, out, " +
                     (options.is_cold() ? "copies of K and V that no cache holds" : "K and V") +
                     ", plans and workspaces); expected at most the " + gigabytes(memory) +
                     " that are available";
  const double warm = bench::Problem::memory_bytes(options.shape, 0) + rest;
  if (options.is_cold() && warm <= memory) text += "; with --warm it takes " + gigabytes(warm);
  return text;
}

// Turns the library's message on a field of ContextOptions into one on the option.
std::string in_options(std::string sentence) {
  if (sentence.starts_with("num_threads is ")) sentence.erase(0, std::string("num_").size());
  for (const char* name : {"threads", "isa", "cpus", "bind", "executor", "policy"}) {
    if (sentence.starts_with(name + std::string(" is "))) return "--" + sentence;
  }
  return sentence;
}

std::string first_error(const std::vector<bench::Workload>& workloads, const Ways& ways) {
  for (std::size_t i = 0; i < workloads.size(); ++i) {
    if (!workloads[i].error().empty()) return ways.measured[i].name() + ": " + workloads[i].error();
  }
  return "";
}

}  // namespace

int run_bench(const Options& options, const Call& call, std::ostream& out, std::ostream& err,
              bool shows_progress) {
  const auto fail = [&err](int status, const std::string& sentence) {
    err << "kumiko-bench: " << sentence << "\n";
    return status;
  };
  if (!options.json.empty()) {
    if (const std::string why = unwritable(options.json); !why.empty()) return fail(kCannot, why);
  }
  if (const std::string why = too_large(options, 0); !why.empty()) return fail(kCannot, why);
  Ways ways;
  if (const Status s = find_ways(options, &ways); !s.ok()) return fail(kCannot, in_options(s.message()));
  double workspaces = 0;
  for (const Way& way : ways.measured) workspaces += static_cast<double>(way.plan.workspace_bytes());
  if (const std::string why = too_large(options, workspaces); !why.empty()) return fail(kCannot, why);

  Report report{.options = options, .ways = ways};
  std::string error;
  {
    Progress progress(err, shows_progress);
    progress.say("writing tensors");
    const std::size_t cache_bytes = options.cache_bytes();
    bench::use_huge_pages(!options.has_base_pages);
    // The caller works too, on the same cores as the ceilings' threads.
    const bench::ScopedAffinity affinity(ways.threads.cpus);
    bench::Problem problem(options.shape, cache_bytes);
    std::vector<bench::Workload> workloads;
    std::vector<Entry> entries;
    workloads.reserve(ways.measured.size());  // Entries point to them.
    for (const Way& way : ways.measured) {
      progress.say("checking the answer of " + way.name());
      workloads.emplace_back(problem, [&](const AttentionArgs& args) {
        AttentionArgs planned = args;
        planned.pipeline = way.asked;
        return call(way.plan, planned);
      });
      entries.push_back({way.peak, &workloads.back(), way.name()});
    }
    error = first_error(workloads, ways);
    if (error.empty()) {
      progress.say("looking for the fastest way to read memory");
      report.clock = bench::clock_of(static_cast<int>(ways.threads.cpus.size()));
      problem.touch();
      bench::ReadCeiling read(problem.cache(), ways.threads.cpus, report.clock);
      report.work = problem.work();
      report.copies = problem.sets();
      report.copied_bytes = static_cast<double>(problem.cache().size());
      report.read_loop = read.variant();
      const OtherLoad others;
      report.results =
          measure({report.work, ways.threads.cpus, report.clock, options.passes, options.seconds}, entries,
                  read, [&](const std::string& text) { progress.say(text); });
      report.others_took = others.cores();
      progress.say("checking the answers again");
      for (bench::Workload& workload : workloads) workload.verify();
      error = first_error(workloads, ways);
    }
  }
  if (!error.empty()) return fail(kWrong, error);
  out << text_report(report) << std::flush;
  if (!options.json.empty() && !write_file(options.json, json_report(report)))
    return fail(kCannot, "--json: \"" + options.json + "\" could not be written");
  return out ? kOk : fail(kCannot, "the standard output could not be written");
}

}  // namespace kumiko::tools
