// SPDX-License-Identifier: Apache-2.0
// The endpoints: which requests are accepted, and their answers.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "access.h"
#include "api.h"
#include "batcher.h"
#include "http_server.h"
#include "metrics.h"
#include "search_index.h"
#include "tokenizer.h"

namespace inference {

struct ServiceOptions {
  int port = 8080;               ///< on 127.0.0.1; 0: any free port
  std::int64_t max_texts = 256;  ///< texts per request
  HttpLimits http;
  AccessOptions access;
  std::string isa;             ///< of attention, named in the metrics
  std::string linear_kernels;  ///< named in the metrics
};

class Service final : public HttpApp {
 public:
  /// The parts must outlive the service.
  Service(const ServiceOptions& options, const Tokenizer& tokenizer, const ModelConfig& config,
          Batcher& batcher, SearchIndex& index, Metrics& metrics);

  /// Serves on its own threads. Returns the port. Throws std::runtime_error if the port is not available.
  int start();
  /// Finishes the requests in flight, refuses new work with 503 meanwhile, then closes the port
  /// (HttpServer::drain).
  void drain();

  std::optional<HttpAnswer> at_head(const HttpHead& head) override;
  void handle(HttpRequest request, Reply reply) override;
  void before_answer(const HttpHead& head, HttpAnswer& answer, double seconds) override;

 private:
  struct Vectors {
    std::vector<float> values;         // [texts, hidden]
    std::vector<std::int64_t> tokens;  // of each text
    MemoryBudget::Lease lease;         // of the answer
  };
  using Format = std::function<HttpAnswer(Vectors)>;

  /// Embeds the texts and answers with format(vectors), on a handler thread. `answer_bytes`: reserved in the
  /// memory budget from now on.
  void embed(const std::vector<std::string>& texts, const std::string& field, std::int64_t answer_bytes,
             const Reply& reply, const Format& format);
  /// Token ids of every text. Throws ApiError 413 naming the text that is too long.
  std::vector<std::vector<std::int32_t>> tokenize(const std::vector<std::string>& texts,
                                                  const std::string& field) const;
  std::optional<HttpAnswer> preflight(const HttpHead& head, const std::string& allowed) const;
  std::string metrics_text() const;

  const ServiceOptions options_;
  const Access access_;
  const Tokenizer& tokenizer_;
  const ModelConfig& config_;
  Batcher& batcher_;
  SearchIndex& index_;
  Metrics& metrics_;
  HttpServer http_;
};

}  // namespace inference
