// SPDX-License-Identifier: Apache-2.0
#include "runtime/core_tuning.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <optional>
#include <string_view>

namespace kumiko {
namespace {

struct Row {
  kernels::Core core;
  kernels::Isa isa;
  const char* source;
  std::int64_t field[std::size(kTuningFields)];
};
constexpr Row kRows[] = {
#define KUMIKO_CORE_TUNING(core, isa, source, ...) \
  {kernels::Core::core, kernels::Isa::isa, source, {__VA_ARGS__}},
#include "runtime/core_tuning.inc"
#undef KUMIKO_CORE_TUNING
};

const Row* find_row(kernels::Core core, kernels::Isa isa) {
  const auto* row = std::find_if(std::begin(kRows), std::end(kRows),
                                 [&](const Row& r) { return r.core == core && r.isa == isa; });
  return row == std::end(kRows) ? nullptr : row;
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r";
  const std::size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

std::string field_names() {
  std::string names;
  for (const TuningField& field : kTuningFields)
    names += (names.empty() ? "" : " | ") + std::string(field.name);
  return names;
}

/// Reads "name = number" into `tuning`. Returns the error, or "".
std::string read_field(std::string_view line, CoreTuning* tuning) {
  const std::size_t equals = line.find('=');
  if (equals == std::string_view::npos) return "expected [isa] or name = number";
  const std::string_view name = trimmed(line.substr(0, equals)), number = trimmed(line.substr(equals + 1));
  const auto* field = std::find_if(std::begin(kTuningFields), std::end(kTuningFields),
                                   [&](const TuningField& f) { return name == f.name; });
  if (field == std::end(kTuningFields)) return "expected one of " + field_names();
  std::int64_t value = 0;
  const char* const end = number.data() + number.size();
  const auto [stop, failure] = std::from_chars(number.data(), end, value);
  if (failure != std::errc() || stop != end || value < field->least || value > field->most)
    return "expected " + std::to_string(field->least) + ".." + std::to_string(field->most);
  tuning->*field->value = value;
  return "";
}

}  // namespace

CoreTuning core_tuning(kernels::Core core, kernels::Isa isa) {
  const kernels::Isa base = kernels::base_of(isa);
  const Row* row = find_row(core, base);
  if (!row) row = find_row(kernels::Core::generic, base);
  CoreTuning tuning{};
  for (std::size_t i = 0; i < std::size(kTuningFields); ++i) tuning.*kTuningFields[i].value = row->field[i];
  tuning.source = std::string(kernels::name(row->core)) + " (" + row->source + ")";
  return tuning;
}

bool read_tuning(const std::string& file, kernels::Isa isa, CoreTuning* tuning, std::string* why) {
  // A path to a device, for example, must not fill the memory.
  constexpr std::size_t kMostBytes = 65536;
  std::ifstream in(file, std::ios::binary);
  std::string content(kMostBytes + 1, '\0');
  in.read(content.data(), static_cast<std::streamsize>(content.size()));
  if (!in.is_open() || in.bad()) {
    *why = "it cannot be read";
    return false;
  }
  content.resize(static_cast<std::size_t>(in.gcount()));
  if (content.size() > kMostBytes) {
    *why = "it has more than 64 KiB";
    return false;
  }
  CoreTuning read = *tuning;
  std::optional<kernels::Isa> section;
  std::string_view rest = content;
  for (int number = 1; !rest.empty(); ++number) {
    const std::string_view text = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(text.size() + 1, rest.size()));
    const std::string_view line = trimmed(text.substr(0, text.find('#')));
    if (line.empty()) continue;
    std::string wrong;
    if (line.front() == '[') {
      section = line.back() == ']' ? kernels::parse_isa(line.substr(1, line.size() - 2)) : std::nullopt;
      if (!section)
        wrong = "expected the name of an instruction set, such as [avx2]";
      else if (const kernels::Isa base = kernels::base_of(*section); base != *section)
        wrong = "expected [" + std::string(kernels::name(base)) + "], which it uses";
    } else if (!section) {
      wrong = "expected [isa] before it";
    } else {
      // Lines for other ISAs are checked too, so that a file is valid on every machine or on none.
      CoreTuning ignored = read;
      wrong = read_field(line, *section == kernels::base_of(isa) ? &read : &ignored);
    }
    if (!wrong.empty()) {
      *why = "line " + std::to_string(number) + " is \"" + std::string(line) + "\"; " + wrong;
      return false;
    }
  }
  read.source = file;
  *tuning = std::move(read);
  return true;
}

}  // namespace kumiko
