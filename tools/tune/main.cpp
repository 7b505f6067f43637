// SPDX-License-Identifier: Apache-2.0
// kumiko-tune: measures on this machine the numbers that plans choose by (runtime/core_tuning.h) and writes a
// file for KUMIKO_TUNING. One thread; about a minute for each instruction set.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iostream>
#include <new>
#include <string>
#include <vector>

#include "kernels/core.h"
#include "kernels/softmax/softmax.h"
#include "tools/tune/search.h"
#include "tools/write_file.h"

namespace {

using kumiko::kernels::Isa;

struct Options {
  std::string file = "kumiko.tuning";
  std::vector<std::string> isas;
  int rounds = kumiko::tune::Effort{}.rounds;
  int megabytes = 256;
  bool is_quick = false;
};

constexpr int kFailed = 1, kWrongOptions = 2;

int fail(const std::string& message, int status = kFailed) {
  std::cerr << "kumiko-tune: " << message << "\n";
  return status;
}

/// The ISAs that a tuning can be for: extensions use their base's.
std::vector<Isa> host_isas() {
  std::vector<Isa> isas;
  for (const Isa isa : kumiko::kernels::kIsas) {
    const bool is_here = (kumiko::kernels::host_isas() & bit(isa)) && kumiko::kernels::find_softmax(isa);
    if (is_here && base_of(isa) == isa && isa != Isa::reference) isas.push_back(isa);
  }
  return isas;
}

std::string names_of(const std::vector<Isa>& isas) {
  std::string names;
  for (const Isa isa : isas) names += (names.empty() ? "" : " | ") + std::string(name(isa));
  return names;
}

std::string processor() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown processor";
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  char text[16];
  std::strftime(text, sizeof text, "%Y-%m-%d", std::gmtime(&now));
  return text;
}

void show_progress(const std::string& what, double done) {
  if (isatty(STDERR_FILENO)) std::fprintf(stderr, "\r\033[K%3.0f %%  %s", 100 * done, what.c_str());
}

int run(const Options& options) {
  const std::vector<Isa> here = host_isas();
  std::vector<Isa> chosen;
  for (const std::string& text : options.isas) {
    const auto isa = kumiko::kernels::parse_isa(text);
    if (!isa || std::find(here.begin(), here.end(), *isa) == here.end())
      return fail("--isa is \"" + text + "\"; expected " + names_of(here), kWrongOptions);
    chosen.push_back(*isa);
  }
  if (chosen.empty()) chosen = here;
  if (!kumiko::tools::is_writable(options.file))
    return fail("--output is \"" + options.file + "\"; expected a file in a folder that can be written");
  kumiko::tune::Effort effort;
  effort.rounds = options.rounds;
  effort.cache_bytes = static_cast<std::size_t>(options.megabytes) << 20;
  if (options.is_quick) effort.window = 1e-4;
  const kumiko::kernels::Core core = kumiko::kernels::host_core();
  std::string text =
      "# kumiko-tune " KUMIKO_VERSION ", " + today() + ", " + processor() + ", core " + name(core) + "\n";
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    const auto progress = [&](const std::string& what, double done) {
      show_progress(what, (static_cast<double>(i) + done) / static_cast<double>(chosen.size()));
    };
    kumiko::tune::Result result;
    const kumiko::CoreTuning table = kumiko::core_tuning(core, chosen[i]);
    if (const kumiko::Status s = kumiko::tune::search(chosen[i], table, effort, progress, &result); !s.ok())
      return fail(s.message());
    text += "\n" + section(chosen[i], result);
  }
  if (isatty(STDERR_FILENO)) std::fprintf(stderr, "\r\033[K");
  std::cout << text << std::flush;  // first: it took minutes
  if (!kumiko::tools::write_file(options.file, text)) return fail("'" + options.file + "' cannot be written");
  std::cout << "\nwritten to " << options.file << "; KUMIKO_TUNING=" << options.file << " uses it\n"
            << std::flush;
  return std::cout ? 0 : fail("the standard output cannot be written");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "Measures what Kumiko's plans choose by on this machine and writes it into a file for KUMIKO_TUNING.\n"
      "No bit of a result depends on it. Best on an idle machine: one thread, a minute or two for each ISA."};
  app.footer(
      "Exit status: 0; 1 when a call fails or the file cannot be written; 2 when the options are wrong, or "
      "this machine lacks the instruction set.");
  app.set_version_flag("--version", "kumiko " KUMIKO_VERSION);
  Options options;
  app.add_option("--output", options.file, "File to write")->capture_default_str();
  app.add_option("--isa", options.isas,
                 "Instruction sets, separated by commas (default: all that this machine has)")
      ->delimiter(',');
  app.add_option("--rounds", options.rounds, "Measurements of each candidate")
      ->check(CLI::Range(1, 1001))
      ->capture_default_str();
  app.add_option("--megabytes", options.megabytes,
                 "Keys and values that decode goes through, more than the caches hold")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_flag("--quick", options.is_quick, "One call a measurement: shows that it works, and little else");
  try {
    app.parse(argc, argv);
    return run(options);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kWrongOptions;
  } catch (const std::bad_alloc&) {
    return fail("out of memory; expected a smaller --megabytes");
  }
}
