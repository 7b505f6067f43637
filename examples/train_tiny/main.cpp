// SPDX-License-Identifier: Apache-2.0
// Trains a small transformer on a text: loss, tokens a second and the bits of what it learned
// (docs/training.md).
#include <omp.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <new>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "examples/train_tiny/training.h"
#include "tools/write_file.h"

namespace {

using Clock = std::chrono::steady_clock;

std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// A bar on standard error, drawn again ten times a second.
class Bar {
 public:
  Bar(std::int64_t steps, std::int64_t tokens) : steps_(steps), tokens_(tokens) {}
  void draw(const train_tiny::Progress& progress) {
    const bool is_last = progress.step == steps_;
    if (!is_last && seconds_since(drawn_) < 0.1) return;
    drawn_ = Clock::now();
    constexpr int kWidth = 30;
    const auto full = static_cast<int>(kWidth * progress.step / steps_);
    std::fprintf(stderr, "\r[%s%s] %lld of %lld, loss %.3f, %.0f tokens/s ", std::string(full, '#').c_str(),
                 std::string(kWidth - full, '.').c_str(), static_cast<long long>(progress.step),
                 static_cast<long long>(steps_), progress.loss,
                 static_cast<double>(progress.step * tokens_) / seconds_since(begin_));
    is_open_ = !is_last;
    if (is_last) std::fputc('\n', stderr);
  }
  ~Bar() {  // What is said next begins on a line of its own.
    if (is_open_) std::fputc('\n', stderr);
  }
  Bar(const Bar&) = delete;
  Bar& operator=(const Bar&) = delete;

 private:
  std::int64_t steps_, tokens_;
  bool is_open_ = false;
  Clock::time_point begin_ = Clock::now(), drawn_ = begin_ - std::chrono::seconds(1);
};

struct Settings {
  train_tiny::Options training;
  std::string text = KUMIKO_TRAIN_TINY_TEXT, json;
  int threads = 0;
};

/// CLI11's own checks of numbers take nan, and -1 where none is below 0.
template <class Number>
CLI::Validator number(Number least, Number most, const std::string& expected) {
  return {[=](std::string& text) {
            Number value{};
            const bool is_right = CLI::detail::lexical_cast(text, value) && value >= least && value <= most &&
                                  !text.starts_with('-');
            return is_right ? "" : "\"" + text + "\"; expected " + expected;
          },
          ""};
}

/// Exit status to end with, or -1 to go on.
int parse(int argc, char** argv, Settings* settings) {
  train_tiny::Options& options = settings->training;
  CLI::App app(
      "Trains a small causal transformer on the bytes of a text; attention and its gradients are Kumiko's.");
  app.footer(
      "Exit status: 0; 1 when a file cannot be read or written or the training fails; 2 for wrong options.");
  app.add_option("--text", settings->text, "file to train on")
      ->check(CLI::ExistingFile)
      ->capture_default_str();
  app.add_option("--steps", options.steps)->check(CLI::Range(1, 1000000))->capture_default_str();
  app.add_option("--batch", options.batch, "sequences a step")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app.add_option("--context", options.size.context, "bytes of a sequence")
      ->check(CLI::Range(2, 65536))
      ->capture_default_str();
  app.add_option("--layers", options.size.layers)->check(CLI::Range(1, 64))->capture_default_str();
  app.add_option("--width", options.size.width, "a multiple of --heads")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app.add_option("--heads", options.size.heads)->check(CLI::Range(1, 64))->capture_default_str();
  app.add_option("--learning-rate", options.learning_rate, "the highest")
      ->check(number(1e-12, 1e6, "a number, 1e-12 to 1e6"))
      ->capture_default_str();
  app.add_option("--seed", options.seed)
      ->check(number<std::uint64_t>(0, UINT64_MAX, "a whole number, 0 to 2^64 - 1"))
      ->capture_default_str();
  app.add_option("--threads", settings->threads, "0: as many as KUMIKO_NUM_THREADS and the machine say")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--json", settings->json, "file for the losses, for plot.py");
  try {
    app.parse(argc, argv);
    if (options.size.width % options.size.heads != 0)
      throw CLI::ValidationError("--width", std::to_string(options.size.width) +
                                                "; expected a multiple of --heads, which is " +
                                                std::to_string(options.size.heads));
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return -1;
}

int run(const Settings& settings) {
  const train_tiny::Options& options = settings.training;
  const std::string& json = settings.json;
  if (!json.empty() && !kumiko::tools::is_writable(json)) throw std::runtime_error("cannot write " + json);

  kumiko::Context context;
  kumiko::ContextOptions context_options;
  context_options.num_threads = settings.threads;
  const kumiko::Status status = kumiko::Context::create(context_options, &context);
  if (!status.ok()) throw std::runtime_error(status.message());
  omp_set_num_threads(context.num_threads());

  const auto begin = Clock::now();
  std::vector<double> losses;
  Bar bar(options.steps, options.batch * options.size.context);
  const train_tiny::Outcome outcome = train_tiny::train(options, read_text(settings.text), context,
                                                        [&](const train_tiny::Progress& progress) {
                                                          losses.push_back(progress.loss);
                                                          bar.draw(progress);
                                                        });
  const double seconds = seconds_since(begin);
  std::printf(
      "loss %.3f nats a byte, %.3f on text not trained on; %.0f tokens/s on %d threads; bits %016llx\n",
      outcome.loss, outcome.held_out,
      static_cast<double>(options.steps * options.batch * options.size.context) / seconds,
      context.num_threads(), static_cast<unsigned long long>(outcome.bits));
  const nlohmann::json result = {{"losses", losses},
                                 {"tokens_a_step", options.batch * options.size.context},
                                 {"held_out", outcome.held_out}};
  if (!json.empty() && !kumiko::tools::write_file(json, result.dump() + "\n"))
    throw std::runtime_error("cannot write " + json);
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
    throw std::runtime_error("cannot write the standard output");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  if (const int status = parse(argc, argv, &settings); status >= 0) return status;
  try {
    return run(settings);
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr,
                 "train_tiny: --batch, --context, --layers and --width take more memory than there is\n");
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "train_tiny: %s\n", problem.what());
  }
  return 1;
}
