// SPDX-License-Identifier: Apache-2.0
#include "service.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <memory>
#include <utility>

#include "page.h"

namespace inference {
namespace {

struct Endpoint {
  const char* path;
  const char* methods;  // as in an Allow header; HEAD is allowed wherever GET is
};
constexpr Endpoint kEndpoints[] = {{"/", "GET"},       {"/healthz", "GET"}, {"/metrics", "GET"},
                                   {"/embed", "POST"}, {"/search", "POST"}, {"/index", "POST, DELETE"}};

// The page contains its script and style. It may run or load nothing else, and no other page may show it in a
// frame to make the reader click there.
constexpr const char* kPagePolicy =
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src "
    "data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

// Bytes of an f32 in an answer: sign, 9 digits, point, exponent, comma.
constexpr std::int64_t kFloatText = 16;

const Endpoint* endpoint_of(const std::string& path) {
  const auto found = std::find_if(std::begin(kEndpoints), std::end(kEndpoints),
                                  [&](const Endpoint& endpoint) { return endpoint.path == path; });
  return found == std::end(kEndpoints) ? nullptr : found;
}

/// The answer to the current exception.
HttpAnswer failure() {
  try {
    throw;
  } catch (const ApiError& error) {
    return error_response(error.status, error.what());
  } catch (const Overloaded& error) {
    return error_response(503, error.what());
  } catch (const IndexFull& error) {
    return error_response(507, error.what());
  } catch (const IndexFileError& error) {
    return error_response(error.out_of_space() ? 507 : 500, error.what());
  } catch (const std::exception& error) {
    return error_response(500, error.what());
  }
}

HttpAnswer with_body(std::string body, MemoryBudget::Lease lease = {}) {
  HttpAnswer answer;
  answer.body = std::move(body);
  answer.lease = std::move(lease);
  return answer;
}

/// Reserves `bytes` for an answer. Throws ApiError: 503 if there is no room now, 413 if there will never be.
MemoryBudget::Lease lease_of(MemoryBudget& budget, std::int64_t bytes) {
  if (bytes > budget.capacity()) {
    throw ApiError(413, "the answer needs " + std::to_string(bytes) + " bytes of memory, expected at most " +
                            std::to_string(budget.capacity()) + " (--max-memory)");
  }
  MemoryBudget::Lease lease(budget);
  if (!lease.resize(bytes)) {
    throw ApiError(503, "the answers being sent take all memory they may: " +
                            std::to_string(budget.capacity()) + " bytes");
  }
  return lease;
}

/// What a message calls the text `index` of a field.
std::string name_of(const std::string& field, std::size_t index) {
  return field == "texts" ? "'texts[" + std::to_string(index) + "]'" : "'" + field + "'";
}

/// The texts of a body, which then makes room for the answer: both might never fit together.
std::vector<std::string> take_texts(HttpRequest& request, std::int64_t max_texts) {
  std::vector<std::string> texts = parse_texts(request.body, max_texts);
  std::string().swap(request.body);
  request.lease = {};
  return texts;
}

}  // namespace

Service::Service(const ServiceOptions& options, const Tokenizer& tokenizer, const ModelConfig& config,
                 Batcher& batcher, SearchIndex& index, Metrics& metrics)
    : options_(options),
      access_(options.access),
      tokenizer_(tokenizer),
      config_(config),
      batcher_(batcher),
      index_(index),
      metrics_(metrics),
      http_(options.http, *this) {}

int Service::start() {
  return http_.start(options_.port);
}

void Service::drain() {
  http_.drain();
}

std::optional<HttpAnswer> Service::preflight(const HttpHead& head, const std::string& allowed) const {
  if (head.method != "OPTIONS" || !access_.foreign_origin(head)) return std::nullopt;
  HttpAnswer answer;
  answer.status = 204;
  answer.headers = {{"Access-Control-Allow-Methods", allowed},
                    {"Access-Control-Allow-Headers", "Content-Type"}};
  return answer;
}

std::optional<HttpAnswer> Service::at_head(const HttpHead& head) {
  if (auto refused = access_.refuse(head)) return refused;
  const Endpoint* endpoint = endpoint_of(head.path);
  if (endpoint == nullptr)
    return error_response(404, "there is nothing at this path: " + head.path.substr(0, 100));
  const std::string allowed = endpoint->methods;
  const std::string method = head.method == "HEAD" ? "GET" : head.method;
  if (allowed != method && !(allowed == "POST, DELETE" && (method == "POST" || method == "DELETE"))) {
    if (auto answer = preflight(head, allowed)) return answer;
    HttpAnswer answer = error_response(
        405, head.method.substr(0, 40) + " is not allowed at " + head.path + ", expected " + allowed);
    answer.headers.emplace_back("Allow", allowed);
    return answer;
  }
  if (method == "GET") {
    HttpAnswer answer;
    if (head.path == "/healthz") {
      if (http_.is_draining()) return error_response(503, "draining");
      answer.body = "{\"status\":\"ok\"}";
    } else if (head.path == "/metrics") {
      answer.body = metrics_text();
      answer.content_type = "text/plain; version=0.0.4; charset=utf-8";
    } else {
      answer.body = kPage;
      answer.content_type = "text/html; charset=utf-8";
      answer.headers.emplace_back("Content-Security-Policy", kPagePolicy);
    }
    return answer;
  }
  if (http_.is_draining()) return error_response(503, "the server is stopping");
  if (head.overflow) {
    return error_response(503, "all " + std::to_string(options_.http.connections) + " connections are busy");
  }
  return method == "POST" ? access_.refuse_body(head) : std::nullopt;
}

void Service::handle(HttpRequest request, Reply reply) {
  try {
    const std::string& path = request.head.path;
    if (path == "/embed") {
      const std::vector<std::string> texts = take_texts(request, options_.max_texts);
      embed(texts, "texts", std::ssize(texts) * (config_.hidden * kFloatText + 32), reply,
            [this](Vectors vectors) {
              return with_body(embed_answer(vectors.values, config_.hidden, vectors.tokens),
                               std::move(vectors.lease));
            });
    } else if (path == "/search") {
      const SearchRequest search = parse_search(request.body);
      embed({search.query}, "query", 0, reply, [this, top_k = search.top_k](const Vectors& vectors) {
        std::string body = search_answer(index_.search(vectors.values, top_k));
        auto lease = lease_of(http_.memory(), std::ssize(body));  // its size is known only now
        return with_body(std::move(body), std::move(lease));
      });
    } else if (request.head.method == "DELETE") {
      index_.clear();
      reply(with_body(index_answer(0, 0)));
    } else {
      std::vector<std::string> texts = take_texts(request, options_.max_texts);
      auto kept = std::make_shared<std::vector<std::string>>(texts);
      embed(texts, "texts", 0, reply, [this, kept](const Vectors& vectors) {
        const std::int64_t added = index_.add(*kept, vectors.values);
        return with_body(index_answer(added, index_.size()));
      });
    }
  } catch (...) {
    reply(failure());
  }
}

void Service::embed(const std::vector<std::string>& texts, const std::string& field,
                    std::int64_t answer_bytes, const Reply& reply, const Format& format) {
  auto vectors = std::make_shared<Vectors>();
  vectors->lease = lease_of(http_.memory(), answer_bytes);
  auto ids = tokenize(texts, field);
  for (const auto& text : ids) vectors->tokens.push_back(std::ssize(text));
  batcher_.submit(std::move(ids), [=, this](std::vector<float> values, const std::exception_ptr& error) {
    vectors->values = std::move(values);
    // The embedding thread goes on with the next batch; formatting 256 vectors takes milliseconds.
    http_.run([=, this] {
      try {
        if (error) std::rethrow_exception(error);
        const auto bad = std::find_if_not(vectors->values.begin(), vectors->values.end(),
                                          [](float value) { return std::isfinite(value); });
        if (bad != vectors->values.end()) {  // JSON has no NaN
          const auto text = (bad - vectors->values.begin()) / config_.hidden;
          throw ApiError(500,
                         "the vector of " + name_of(field, static_cast<std::size_t>(text)) +
                             " has a value that is not a finite number: the model's weights are too large");
        }
        reply(format(std::move(*vectors)));
      } catch (...) {
        reply(failure());
      }
    });
  });
}

void Service::before_answer(const HttpHead& head, HttpAnswer& answer, double seconds) {
  const bool known = endpoint_of(head.path) != nullptr;
  metrics_.count_request(known ? head.path : "other", answer.status);
  if (known) metrics_.observe_latency(head.path, seconds);
  answer.headers.emplace_back("X-Content-Type-Options", "nosniff");
  answer.headers.emplace_back("Cross-Origin-Resource-Policy", "same-origin");
  if (const auto origin = access_.foreign_origin(head)) {
    answer.headers.emplace_back("Access-Control-Allow-Origin", *origin);
    answer.headers.emplace_back("Access-Control-Expose-Headers", "Retry-After");
    answer.headers.emplace_back("Vary", "Origin");
  }
}

std::vector<std::vector<std::int32_t>> Service::tokenize(const std::vector<std::string>& texts,
                                                         const std::string& field) const {
  std::vector<std::vector<std::int32_t>> ids;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    ids.push_back(tokenizer_.encode(texts[i]));
    if (std::ssize(ids.back()) > config_.max_tokens) {
      throw ApiError(413, name_of(field, i) + " has " + std::to_string(ids.back().size()) +
                              " word pieces with [CLS] and [SEP], the model takes at most " +
                              std::to_string(config_.max_tokens));
    }
  }
  return ids;
}

std::string Service::metrics_text() const {
  Gauges gauges;
  gauges.queue_depth = batcher_.depth();
  gauges.queue_capacity = batcher_.options().queue;
  gauges.index_size = index_.size();
  gauges.connections = http_.connections();
  gauges.isa = options_.isa;
  gauges.linear_kernels = options_.linear_kernels;
  return metrics_.prometheus(gauges);
}

}  // namespace inference
