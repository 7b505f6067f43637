// The HTTP face: routes, limits, statuses, drain.
#pragma once

#include <httplib.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "batcher.h"
#include "metrics.h"
#include "search_index.h"
#include "tokenizer.h"

namespace inference {

struct ServiceOptions {
  int port = 8080;                ///< on 127.0.0.1; 0: any free port
  std::int64_t connections = 64;  ///< connections served at once; more get 503
  std::int64_t max_texts = 256;   ///< texts per request
  std::int64_t max_body_bytes = 4 << 20;
  std::string isa;             ///< of attention, named in the metrics
  std::string linear_kernels;  ///< named in the metrics
};

class Service {
 public:
  /// The parts must outlive the service.
  Service(const ServiceOptions& options, const Tokenizer& tokenizer, const ModelConfig& config,
          Batcher& batcher, SearchIndex& index, Metrics& metrics);

  /// Binds and starts to serve on its own threads. Returns the port. Throws std::runtime_error when it cannot
  /// be had.
  int start();

  /// Answers what is in flight, refuses new work with 503 meanwhile, then closes the port and joins all
  /// threads.
  void drain();

 private:
  using Handler =
      std::function<std::string(const httplib::Request&)>;  // returns the JSON body, throws ApiError
  // httplib asks for 5 waiting connections only, compiled into Debian's library: a burst of clients would see
  // connects take a second (SYN retry). Calling listen() again on the bound socket raises it.
  struct HttpServer : httplib::Server {
    void raise_backlog();
  };
  void add_routes();
  void add_error_answers();
  /// `needs_model`: refused when overloaded or draining.
  httplib::Server::Handler json_route(const std::string& path, bool needs_model, Handler handler);
  void allow_only(const std::string& path, const std::vector<std::string>& methods);

  /// Token ids of every text. Throws ApiError 413 naming the text that is too long.
  std::vector<std::vector<std::int32_t>> tokenize(const std::vector<std::string>& texts,
                                                  const std::string& field) const;
  std::string embed(const httplib::Request& request);
  std::string add_to_index(const httplib::Request& request);
  std::string search(const httplib::Request& request);
  std::string metrics_text() const;

  const ServiceOptions options_;
  const Tokenizer& tokenizer_;
  const ModelConfig& config_;
  Batcher& batcher_;
  SearchIndex& index_;
  Metrics& metrics_;
  HttpServer http_;
  std::thread listener_;
  std::vector<std::string> paths_;  // label values of the metrics; any other path counts as "other"
  std::atomic<bool> draining_{false};
  std::atomic<std::int64_t> in_flight_{0};
};

}  // namespace inference
