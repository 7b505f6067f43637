// SPDX-License-Identifier: Apache-2.0
// Kumiko's inference server: sentences to vectors and semantic search over HTTP on 127.0.0.1.
#include <kumiko/attention.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "batcher.h"
#include "metrics.h"
#include "model.h"
#include "model_config.h"
#include "search_index.h"
#include "service.h"
#include "tokenizer.h"

namespace inference {
namespace {

int stop_event = -1;

// A handler instead of sigwait(): threads started by libraries before main() do not have the signals blocked.
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
  std::signal(SIGPIPE, SIG_IGN);  // whoever read the output may be gone: that must not end a drain
  std::signal(SIGXFSZ, SIG_IGN);  // at the limit of file sizes a write fails, and with it one request
}

void wait_for_stop_signal() {
  std::uint64_t count = 0;
  while (::read(stop_event, &count, sizeof count) < 0 && errno == EINTR) {
  }
}

/// Reads JSON strings, one a line; prints token ids, one JSON array a line.
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

struct IndexOptions {
  std::string file;  // empty: in memory only
  std::int64_t max_texts = 20'000;
  std::int64_t max_text_bytes = SearchIndex::kMaxTextBytes;
};

std::unique_ptr<SearchIndex> open_index(const IndexOptions& options, const std::string& model_directory,
                                        std::int64_t width) {
  if (options.file.empty()) {
    return std::make_unique<SearchIndex>(width, options.max_texts, options.max_text_bytes);
  }
  return SearchIndex::open(options.file, model_fingerprint(model_directory), width, options.max_texts,
                           options.max_text_bytes);
}

int serve(const std::string& model_directory, const BatcherOptions& batching, ServiceOptions options,
          const IndexOptions& indexing) {
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
  const std::unique_ptr<SearchIndex> index = open_index(indexing, model_directory, config.hidden);
  Batcher batcher(model, metrics, batching);
  options.isa = context.isa();
  options.linear_kernels = model.linear_kernels();
  Service service(options, tokenizer, config, batcher, *index, metrics);
  const int port = service.start();
  std::cout << "inference_server: " << config.layers << " layers, " << config.heads << " heads, attention "
            << context.isa() << " on " << context.num_threads() << " threads, linear layers oneDNN "
            << model.linear_kernels() << ", " << batching.workers << " workers\n"
            << "inference_server: " << index->size() << " texts indexed, "
            << (indexing.file.empty() ? "in memory only: a restart forgets them" : "kept in " + indexing.file)
            << '\n'
            << "listening on http://127.0.0.1:" << port << std::endl;
  wait_for_stop_signal();
  std::cout << "inference_server: draining" << std::endl;
  service.drain();
  batcher.stop();  // before the service, which its answers need
  std::cout << "inference_server: stopped" << std::endl;
  return 0;
}

/// An option in seconds for a limit in milliseconds.
void add_seconds(CLI::App& app, const std::string& name, std::chrono::milliseconds& value,
                 const std::string& help) {
  std::ostringstream seconds;
  seconds << std::chrono::duration<double>(value).count();
  app.add_option_function<double>(
         name, [&value](double given) { value = std::chrono::milliseconds(std::llround(1e3 * given)); }, help)
      ->check(CLI::Range(0.001, 86400.0))
      ->default_str(seconds.str());
}

int main_checked(int argc, char** argv) {
  CLI::App app{"Sentence embeddings and semantic search over HTTP on 127.0.0.1, attention by Kumiko."};
  std::string model;
  bool tokenize = false;
  BatcherOptions batching;
  ServiceOptions options;
  HttpLimits& http = options.http;
  std::int64_t max_wait_us = batching.max_wait.count();
  IndexOptions indexing;
  constexpr std::int64_t kMost = 1'000'000;
  const auto add_count = [&app](const std::string& name, std::int64_t& value, std::int64_t least,
                                std::int64_t most, const std::string& help) {
    app.add_option(name, value, help)->check(CLI::Range(least, most))->capture_default_str();
  };
  app.add_option("--model", model, "Folder with model.safetensors, config.json, vocab.txt")->required();
  app.add_option("--port", options.port, "Port; 0 takes a free one and prints it")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  add_count("--workers", batching.workers, 1, 256, "Threads that embed, one batch each");
  add_count("--max-batch", batching.max_batch, 1, 1024, "Texts per batch");
  add_count("--max-batch-tokens", batching.max_batch_tokens, 1, kMost,
            "Word pieces per batch, but at least one text");
  add_count("--max-wait-us", max_wait_us, 0, 10 * kMost,
            "Longest wait of a batch for more texts, microseconds");
  add_count("--queue", batching.queue, 1, kMost, "Texts waiting before requests get 503");
  add_count("--max-texts", options.max_texts, 1, kMost, "Texts per request, at most --queue");
  app.add_option(
      "--index", indexing.file,
      "File that keeps the index over a restart; without it the index is in memory only and empty at first");
  add_count("--max-index", indexing.max_texts, 1, 100 * kMost, "Texts the index holds");
  add_count("--max-index-bytes", indexing.max_text_bytes, 1, std::int64_t{1} << 40,
            "Bytes of all texts of the index");
  add_count("--max-body", http.max_body, 1, 1 << 30, "Bytes per request body, at most --max-memory");
  add_count("--max-memory", http.max_memory, 1 << 20, std::int64_t{1} << 40,
            "Bytes of all bodies and answers that wait, before requests get 503; one larger alone gets 413");
  add_count(
      "--connections", http.connections, 1, 100'000,
      "Connections open at once; beyond, the one idle for the longest is closed, or a request gets 503");
  add_seconds(app, "--idle-timeout", http.idle_timeout, "Seconds a connection may wait between requests");
  add_seconds(app, "--header-timeout", http.header_timeout, "Seconds a request's head may take to arrive");
  add_seconds(app, "--body-timeout", http.body_timeout, "Seconds a request's body may take to arrive");
  add_seconds(app, "--write-timeout", http.write_timeout, "Seconds a client may take to read an answer");
  add_seconds(app, "--drain-grace", http.drain_grace,
              "Seconds after SIGTERM in which an idle connection may still send a request");
  add_seconds(app, "--drain-timeout", http.drain_timeout,
              "Seconds after SIGTERM before what is left gets 503");
  app.add_option(
      "--allow-host", options.access.hosts,
      "Name that a request's Host may hold beside 127.0.0.1, localhost and [::1]; may be given again");
  app.add_option("--allow-origin", options.access.origins,
                 "Origin of a web page elsewhere that may ask, as https://example.org; may be given again");
  app.add_flag("--tokenize", tokenize,
               "Do not serve: read JSON strings from stdin, one a line, write their token ids");
  const auto expect_at_most = [&app](const char* smaller, std::int64_t value, const char* larger,
                                     std::int64_t most) {
    if (app.count(smaller) > 0 && value > most)
      throw CLI::ValidationError(smaller, "is " + std::to_string(value) + "; expected at most " + larger +
                                              ", which is " + std::to_string(most));
  };
  app.parse_complete_callback([&] {
    expect_at_most("--max-texts", options.max_texts, "--queue", batching.queue);
    expect_at_most("--max-body", http.max_body, "--max-memory", http.max_memory);
  });
  CLI11_PARSE(app, argc, argv);
  if (tokenize) return tokenize_lines(model);
  batching.max_wait = std::chrono::microseconds(max_wait_us);
  // What was not given: a request that cannot fit even into an empty queue or memory would be refused for
  // ever, so answer 413, not 503.
  options.max_texts = std::min(options.max_texts, batching.queue);
  http.max_body = std::min(http.max_body, http.max_memory);
  return serve(model, batching, options, indexing);
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
