// Kumiko's inference server: sentences to vectors and semantic search over HTTP on 127.0.0.1.
#include <kumiko/attention.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "batcher.h"
#include "metrics.h"
#include "model.h"
#include "search_index.h"
#include "service.h"
#include "tokenizer.h"

namespace inference {
namespace {

int stop_event = -1;

// A handler and not sigwait(): threads that libraries started before main() do not have the signals blocked.
void request_stop(int) {
  const int saved = errno;
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(stop_event, &one, sizeof one);
  errno = saved;
}

void install_stop_signals() {
  stop_event = ::eventfd(0, EFD_CLOEXEC);
  struct sigaction action {};
  action.sa_handler = request_stop;
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGTERM, &action, nullptr);
  ::sigaction(SIGINT, &action, nullptr);
}

void wait_for_stop_signal() {
  std::uint64_t count = 0;
  while (::read(stop_event, &count, sizeof count) < 0 && errno == EINTR) {
  }
}

/// JSON strings in, one a line; token ids out, one JSON array a line.
int tokenize_lines(const std::string& model) {
  const Tokenizer tokenizer(std::filesystem::path(model) / "vocab.txt");
  std::string line;
  for (std::int64_t number = 1; std::getline(std::cin, line); ++number) {
    const nlohmann::json text = nlohmann::json::parse(line, nullptr, false);
    if (!text.is_string()) {
      std::cerr << "inference_server: line " << number << " is not a JSON string\n";
      return 2;
    }
    std::cout << nlohmann::json(tokenizer.encode(text.get<std::string>())).dump() << '\n';
  }
  return 0;
}

int serve(const std::string& model_directory, const BatcherOptions& batching, ServiceOptions http,
          std::int64_t max_index) {
  kumiko::Context context;
  if (const kumiko::Status status = kumiko::Context::create({}, &context); !status.ok()) {
    std::cerr << "inference_server: " << status.message() << '\n';
    return 1;
  }
  install_stop_signals();
  const Tokenizer tokenizer(std::filesystem::path(model_directory) / "vocab.txt");
  const Model model(model_directory, context);
  const ModelConfig& config = model.config();
  if (static_cast<std::int64_t>(tokenizer.vocab_size()) != config.vocab) {
    throw std::runtime_error("vocab.txt has " + std::to_string(tokenizer.vocab_size()) +
                             " pieces, config.json says " + std::to_string(config.vocab));
  }
  Metrics metrics;
  SearchIndex index(config.hidden, max_index);
  Batcher batcher(model, metrics, batching);
  http.isa = context.isa();
  http.linear_kernels = model.linear_kernels();
  Service service(http, tokenizer, config, batcher, index, metrics);
  const int port = service.start();
  std::cout << "inference_server: " << config.layers << " layers, " << config.heads << " heads, attention "
            << context.isa() << " on " << context.num_threads() << " threads, linear layers oneDNN "
            << model.linear_kernels() << ", " << batching.workers << " workers\n"
            << "listening on http://127.0.0.1:" << port << std::endl;
  wait_for_stop_signal();
  std::cout << "inference_server: draining" << std::endl;
  service.drain();
  std::cout << "inference_server: stopped" << std::endl;
  return 0;
}

int main_checked(int argc, char** argv) {
  CLI::App app{"Sentence embeddings and semantic search over HTTP on 127.0.0.1, attention by Kumiko."};
  std::string model;
  bool tokenize = false;
  BatcherOptions batching;
  ServiceOptions http;
  std::int64_t max_wait_us = batching.max_wait.count();
  std::int64_t max_index = 100'000;
  constexpr std::int64_t kMost = 1'000'000;
  app.add_option("--model", model, "Folder with model.safetensors, config.json, vocab.txt")->required();
  app.add_option("--port", http.port, "Port; 0 takes a free one and prints it")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  app.add_option("--workers", batching.workers, "Threads that embed, one batch each")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  app.add_option("--max-batch", batching.max_batch, "Texts per batch")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--max-wait-us", max_wait_us, "Longest wait of a batch for more texts, microseconds")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{10'000'000}))
      ->capture_default_str();
  app.add_option("--queue", batching.queue, "Texts waiting before requests get 503")
      ->check(CLI::Range(std::int64_t{1}, kMost))
      ->capture_default_str();
  app.add_option("--connections", http.connections, "Connections served at once; more get 503")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app.add_option("--max-texts", http.max_texts, "Texts per request")
      ->check(CLI::Range(std::int64_t{1}, kMost))
      ->capture_default_str();
  app.add_option("--max-body", http.max_body_bytes, "Bytes per request body")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30))
      ->capture_default_str();
  app.add_option("--max-index", max_index, "Texts the index holds")
      ->check(CLI::Range(std::int64_t{1}, 100 * kMost))
      ->capture_default_str();
  app.add_flag("--tokenize", tokenize,
               "Do not serve: read JSON strings from stdin, one a line, write their token ids");
  CLI11_PARSE(app, argc, argv);
  if (tokenize) return tokenize_lines(model);
  batching.max_wait = std::chrono::microseconds(max_wait_us);
  // A request that cannot fit even an empty queue would be refused for ever: say so as 413, not 503.
  http.max_texts = std::min(http.max_texts, batching.queue);
  return serve(model, batching, http, max_index);
}

}  // namespace
}  // namespace inference

int main(int argc, char** argv) {
  try {
    return inference::main_checked(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "inference_server: " << error.what() << '\n';
    return 1;
  }
}
