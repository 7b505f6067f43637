// SPDX-License-Identifier: Apache-2.0
#include "tools/tune/search.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <span>
#include <string_view>

namespace kumiko::tune {
namespace {

constexpr Shape kDecode[] = {
    {"decode f32 GQA", 32, 8, 1, 4096, 128, DataType::f32},
    {"decode bf16 GQA", 32, 8, 1, 4096, 128, DataType::bf16},
    {"decode f16 GQA", 32, 8, 1, 4096, 128, DataType::f16},
    {"decode f32 MHA", 8, 8, 1, 4096, 128, DataType::f32},
};
constexpr Shape kApart[] = {
    {"decode f32 GQA, heads side by side", 32, 8, 1, 4096, 128, DataType::f32, false, -1, Pipeline::automatic,
     true},
    {"decode bf16 GQA, heads side by side", 32, 8, 1, 4096, 128, DataType::bf16, false, -1,
     Pipeline::automatic, true},
};
constexpr Shape kDense[] = {
    {"dense D64", 4, 4, 1024, 1024, 64},
    {"dense D128", 4, 4, 1024, 1024, 128},
    {"dense D256", 2, 2, 1024, 1024, 256},
};
constexpr Shape kWindow[] = {{"window of 512", 2, 2, 4096, 4096, 128, DataType::f32, true, 511}};
constexpr Shape kInterleaved[] = {
    {"interleaved D128", 4, 4, 1024, 1024, 128, DataType::f32, false, -1, Pipeline::interleaved},
    {"interleaved D256", 2, 2, 1024, 1024, 256, DataType::f32, false, -1, Pipeline::interleaved},
};

constexpr Shape kAppend[] = {
    {"appending f32", 32, 8, 512, 1024, 128, DataType::f32, false, -1, Pipeline::automatic, true, true},
    {"appending bf16", 32, 8, 512, 1024, 128, DataType::bf16, false, -1, Pipeline::automatic, true, true},
};

/// Which numbers are tried on which workloads, in this order.
struct Step {
  const char* field;
  std::span<const Shape> shapes;
  std::vector<std::int64_t> candidates;
};
const std::vector<Step>& steps() {
  static const std::vector<Step> all = {
      {"tile_vectors", kDense, {1, 2, 3}},
      {"narrow_tile_vectors", kWindow, {1, 2, 3}},
      {"task_tiles", kDense, {4, 8, 12, 16, 24, 32}},
      {"pipe_ahead", kInterleaved, {1, 2, 4}},
      {"l2_ahead", kDecode, {0, 8192, 16384, 32768, 65536}},
      {"keys_ahead", kDecode, {2048, 4096, 8192, 10240, 12288, 16384, 24576}},
      {"values_ahead", kDecode, {2048, 4096, 8192, 12288, 16384, 24576}},
      {"l2_ahead", kDecode, {0, 8192, 16384, 32768, 65536}},  // again, beside the new distances into L1
      {"l2_ahead_apart", kApart, {0, 8192, 16384, 32768}},
      {"values_together", kDecode, {8192, 12288, 16384, 32768}},
      {"narrow_decode_rows", kDecode, {0, 4}},
      {"append_ahead", kAppend, {0, 1024, 2048, 4096, 8192}},
      {"append_streams", kAppend, {0, 65536}},
  };
  return all;
}
/// Only AVX-512 has kernels of narrower vectors with the same bits.
bool matters(const Step& step, kernels::Isa isa) {
  return std::string_view(step.field) != "narrow_decode_rows" ||
         kernels::base_of(isa) == kernels::Isa::avx512;
}
constexpr std::int64_t kRows[] = {2, 4, 6, 8, 10, 12, 16, 24, 32};
constexpr double kWorthwhile = 1.02;  // Repeated medians of nine rounds on a busy machine differ by 1 %.

const TuningField* find_field(const std::string& name) {
  return std::find_if(std::begin(kTuningFields), std::end(kTuningFields),
                      [&](const TuningField& field) { return name == field.name; });
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

std::string lines_of(kernels::Isa isa, const CoreTuning& tuning) {
  std::string text = "[" + std::string(name(isa)) + "]\n";
  for (const TuningField& field : kTuningFields)
    text += std::string(field.name) + " = " + std::to_string(tuning.*field.value) + "\n";
  return text;
}

/// A context of one thread with one tuning, passed as a user passes it: by a file.
Status make_context(kernels::Isa isa, const CoreTuning& tuning, Context* context) {
  std::error_code none;
  const std::filesystem::path folder = std::filesystem::temp_directory_path(none),
                              file = folder / ("kumiko-tune-" + std::to_string(getpid()));
  std::ofstream out;
  if (!none) out.open(file);
  out << lines_of(isa, tuning);
  out.close();
  if (out.fail())
    return {Code::internal,
            "no temporary file can be written; expected TMPDIR, or without it /tmp, to be a folder for them"};
  ContextOptions options;
  options.executor = "serial";
  options.num_threads = 1;
  options.isa = name(isa);
  options.tuning = file;
  Status status = Context::create(options, context);
  std::filesystem::remove(file, none);
  return status;
}

/// Seconds of each candidate on one workload, each measured once; every round starts with another candidate.
/// Their answers must have the same bits.
Status measure(Workload& workload, std::vector<Call>& candidates, int round, double window,
               std::vector<double>* seconds) {
  const std::size_t n = candidates.size();
  seconds->assign(n, 0);
  std::vector<std::byte> want;
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t c = (i + static_cast<std::size_t>(round)) % n;
    if (Status s = workload.seconds(candidates[c], window, &(*seconds)[c]); !s.ok()) return s;
    if (want.empty()) want = workload.answer();
    if (want != workload.answer())
      return {Code::internal,
              std::string(workload.shape().name) + ": a candidate changed a bit of the answer"};
  }
  return {};
}

/// ratios[c]: time of candidate 0 over that of candidate c: the geometric mean over workloads of each round,
/// then the median over rounds. candidates[w][c] belong to workload w.
Status compare(std::vector<std::unique_ptr<Workload>>& workloads, std::vector<std::vector<Call>>& candidates,
               const Effort& effort, std::vector<double>* ratios) {
  const std::size_t n = candidates.front().size();
  std::vector<std::vector<double>> by_round(n);
  for (int round = 0; round < effort.rounds; ++round) {
    std::vector<double> logs(n, 0);
    for (std::size_t w = 0; w < workloads.size(); ++w) {
      std::vector<double> seconds;
      if (Status s = measure(*workloads[w], candidates[w], round, effort.window, &seconds); !s.ok()) return s;
      for (std::size_t c = 0; c < n; ++c) logs[c] += std::log(seconds[0] / seconds[c]);
    }
    for (std::size_t c = 0; c < n; ++c)
      by_round[c].push_back(std::exp(logs[c] / static_cast<double>(workloads.size())));
  }
  ratios->clear();
  for (const std::vector<double>& values : by_round) ratios->push_back(median(values));
  return {};
}

Status try_field(kernels::Isa isa, const Step& step, const Effort& effort, Result* result) {
  const TuningField* const field = find_field(step.field);
  const std::int64_t before = result->tuning.*field->value;
  std::vector<std::int64_t> values = {before};
  for (const std::int64_t value : step.candidates) {
    if (value != before) values.push_back(value);
  }
  std::vector<std::unique_ptr<Workload>> workloads;
  for (const Shape& shape : step.shapes)
    workloads.push_back(std::make_unique<Workload>(shape, effort.cache_bytes));
  std::vector<std::vector<Call>> candidates(workloads.size());
  for (const std::int64_t value : values) {
    CoreTuning tuning = result->tuning;
    tuning.*field->value = value;
    Context context;
    if (Status s = make_context(isa, tuning, &context); !s.ok()) return s;
    for (std::size_t w = 0; w < workloads.size(); ++w) {
      const Pipeline pipeline = workloads[w]->shape().pipeline;
      if (Status s = workloads[w]->prepare(context, pipeline, &candidates[w].emplace_back()); !s.ok())
        return s;
    }
  }
  std::vector<double> ratios;
  if (Status s = compare(workloads, candidates, effort, &ratios); !s.ok()) return s;
  const auto best = static_cast<std::size_t>(std::max_element(ratios.begin(), ratios.end()) - ratios.begin());
  Finding finding{field, before, before, 1.0};
  if (ratios[best] >= kWorthwhile) {
    finding.after = values[best];
    finding.gain = ratios[best];
    result->tuning.*field->value = values[best];
  }
  result->findings.push_back(finding);
  return {};
}

/// The number of rows up to which decode is not slower than tiles, tried from the fewest rows on.
Status try_decode_rows(kernels::Isa isa, const Effort& effort, Result* result) {
  const TuningField* const field = find_field("decode_rows");
  Finding finding{field, result->tuning.decode_rows, 0, 1.0};
  Context context;
  if (Status s = make_context(isa, result->tuning, &context); !s.ok()) return s;
  for (const std::int64_t rows : kRows) {
    std::vector<std::unique_ptr<Workload>> workloads;
    std::vector<std::vector<Call>> candidates;
    for (const DataType type : {DataType::f32, DataType::bf16}) {
      Workload& workload = *workloads.emplace_back(std::make_unique<Workload>(
          Shape{"decode or tiles", 8, 8, rows, 4096, 128, type}, effort.cache_bytes));
      auto& both = candidates.emplace_back();
      for (const Pipeline pipeline : {Pipeline::decode, Pipeline::online}) {
        if (Status s = workload.prepare(context, pipeline, &both.emplace_back()); !s.ok()) return s;
      }
    }
    std::vector<double> ratios;
    if (Status s = compare(workloads, candidates, effort, &ratios); !s.ok()) return s;
    if (ratios[1] > 1.0) break;
    finding.after = rows;
  }
  result->tuning.decode_rows = finding.after;
  result->findings.push_back(finding);
  return {};
}

}  // namespace

Status search(kernels::Isa isa, const CoreTuning& tuning, const Effort& effort, const Progress& progress,
              Result* result) {
  Result found{tuning, {}};
  const double all = static_cast<double>(steps().size() + 1);
  double done = 0;
  for (const Step& step : steps()) {
    progress(std::string(name(isa)) + ": " + step.field, done++ / all);
    if (!matters(step, isa)) continue;
    if (Status s = try_field(isa, step, effort, &found); !s.ok()) return s;
  }
  progress(std::string(name(isa)) + ": decode_rows", done / all);
  if (Status s = try_decode_rows(isa, effort, &found); !s.ok()) return s;
  *result = std::move(found);
  return {};
}

std::string section(kernels::Isa isa, const Result& result) {
  std::string text;
  for (const Finding& finding : result.findings) {
    if (finding.before == finding.after) continue;
    char gain[64] = "";
    if (finding.gain != 1.0) std::snprintf(gain, sizeof gain, ", %.3f times as fast", finding.gain);
    text += "# " + std::string(name(isa)) + ": " + finding.field->name + " was " +
            std::to_string(finding.before) + gain + "\n";
  }
  return text + lines_of(isa, result.tuning);
}

}  // namespace kumiko::tune
