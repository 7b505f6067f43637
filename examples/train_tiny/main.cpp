// SPDX-License-Identifier: Apache-2.0
// Trains a small transformer on a text: loss, tokens a second and the bits of what it learned
// (docs/training.md).
#include <omp.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "examples/train_tiny/training.h"

namespace {

using Clock = std::chrono::steady_clock;

std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Before the minutes of training. Leaves no new file behind.
void check_writable(const std::string& path) {
  std::error_code ignored;
  const bool existed = std::filesystem::exists(path, ignored);
  if (!std::ofstream(path, std::ios::app)) throw std::runtime_error("cannot write " + path);
  if (!existed) std::filesystem::remove(path, ignored);
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
    if (is_last) std::fputc('\n', stderr);
  }

 private:
  std::int64_t steps_, tokens_;
  Clock::time_point begin_ = Clock::now(), drawn_ = begin_ - std::chrono::seconds(1);
};

int run(int argc, char** argv) {
  train_tiny::Options options;
  std::string text = KUMIKO_TRAIN_TINY_TEXT, json;
  int threads = 0;
  CLI::App app(
      "Trains a small causal transformer on the bytes of a text; attention and its gradients are Kumiko's.");
  app.add_option("--text", text, "file to train on")->check(CLI::ExistingFile)->capture_default_str();
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
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--seed", options.seed)->capture_default_str();
  app.add_option("--threads", threads, "0: as many as KUMIKO_NUM_THREADS and the machine say")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--json", json, "file for the losses, for plot.py");
  CLI11_PARSE(app, argc, argv);
  if (!json.empty()) check_writable(json);
  if (options.size.width % options.size.heads != 0)
    throw std::invalid_argument("--width is " + std::to_string(options.size.width) +
                                ", expected a multiple of --heads, " + std::to_string(options.size.heads));

  kumiko::Context context;
  kumiko::ContextOptions context_options;
  context_options.num_threads = threads;
  const kumiko::Status status = kumiko::Context::create(context_options, &context);
  if (!status.ok()) throw std::runtime_error(status.message());
  omp_set_num_threads(context.num_threads());

  const auto begin = Clock::now();
  std::vector<double> losses;
  Bar bar(options.steps, options.batch * options.size.context);
  const train_tiny::Outcome outcome =
      train_tiny::train(options, read_text(text), context, [&](const train_tiny::Progress& progress) {
        losses.push_back(progress.loss);
        bar.draw(progress);
      });
  const double seconds = seconds_since(begin);
  std::printf(
      "loss %.3f nats a byte, %.3f on text not trained on; %.0f tokens/s on %d threads; bits %016llx\n",
      outcome.loss, outcome.held_out,
      static_cast<double>(options.steps * options.batch * options.size.context) / seconds,
      context.num_threads(), static_cast<unsigned long long>(outcome.bits));
  if (!json.empty()) {
    std::ofstream file(json);
    file << nlohmann::json{{"losses", losses},
                           {"tokens_a_step", options.batch * options.size.context},
                           {"held_out", outcome.held_out}}
         << '\n';
    file.close();
    if (!file) throw std::runtime_error("cannot write " + json);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "train_tiny: %s\n", problem.what());
    return 1;
  }
}
