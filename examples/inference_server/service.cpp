#include "service.h"

#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <stdexcept>

#include "api.h"
#include "connection_pool.h"
#include "page.h"

namespace inference {
namespace {

using Clock = std::chrono::steady_clock;

// A second is many batches; a client that waits that long finds the queue drained.
constexpr const char* kRetryAfterSeconds = "1";

void answer_error(httplib::Response& response, int status, const std::string& message) {
  response.status = status;
  response.set_content(error_answer(message), "application/json");
  if (status == 503) response.set_header("Retry-After", kRetryAfterSeconds);
}

const char* reason(int status) {
  switch (status) {
    case 400:
      return "the request is not valid HTTP";
    case 404:
      return "there is nothing at this path";
    case 413:
      return "the body is too large";
    case 414:
      return "the path is too long";
    case 415:
      return "the body has a form's Content-Type, expected application/json";
    default:
      return "the request cannot be answered";
  }
}

// A page of another origin can make a browser POST forms and plain text here without asking, but not JSON.
void require_json(const httplib::Request& request) {
  if (!request.has_header("Content-Type")) return;
  const std::string type = request.get_header_value("Content-Type");
  if (type == "application/json" || type.starts_with("application/json;")) return;
  throw ApiError(415, "Content-Type is '" + type.substr(0, 60) + "', expected application/json");
}

struct Counted {
  explicit Counted(std::atomic<std::int64_t>& value) : counter(value) { ++counter; }
  ~Counted() { --counter; }
  std::atomic<std::int64_t>& counter;
};

}  // namespace

Service::Service(const ServiceOptions& options, const Tokenizer& tokenizer, const ModelConfig& config,
                 Batcher& batcher, SearchIndex& index, Metrics& metrics)
    : options_(options),
      tokenizer_(tokenizer),
      config_(config),
      batcher_(batcher),
      index_(index),
      metrics_(metrics) {
  http_.new_task_queue = [this] {
    return new ConnectionPool(static_cast<std::size_t>(options_.connections));
  };
  http_.set_payload_max_length(static_cast<std::size_t>(options_.max_body_bytes));
  http_.set_tcp_nodelay(true);  // small answers: Nagle would hold them back for the peer's delayed ACK, 40 ms
  http_.set_keep_alive_max_count(1'000'000);
  http_.set_keep_alive_timeout(2);  // a drain waits that long for idle connections
  // httplib sets SO_REUSEPORT: a second server on the same port would silently take half of the connections.
  http_.set_socket_options([](socket_t socket) {
    const int yes = 1;
    ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  });
  add_routes();
  add_error_answers();
}

void Service::HttpServer::raise_backlog() {
  ::listen(svr_sock_, 512);
}

int Service::start() {
  int port = options_.port;
  if (port == 0) {
    port = http_.bind_to_any_port("127.0.0.1");
  } else if (!http_.bind_to_port("127.0.0.1", port)) {
    port = -1;
  }
  if (port < 0) throw std::runtime_error("cannot listen on 127.0.0.1:" + std::to_string(options_.port));
  http_.raise_backlog();
  listener_ = std::thread([this] { http_.listen_after_bind(); });
  return port;
}

void Service::drain() {
  draining_ = true;
  // Connections that were accepted but not read yet get their 503 in this time; closing at once would reset
  // them.
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  while (in_flight_ > 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  http_.stop();
  listener_.join();
}

void Service::add_routes() {
  http_.Get("/", json_route("/", false, [](const httplib::Request&) { return std::string(kPage); }));
  http_.Get("/healthz", json_route("/healthz", false, [this](const httplib::Request&) -> std::string {
              if (draining_) throw ApiError(503, "draining");
              return "{\"status\":\"ok\"}";
            }));
  http_.Get("/metrics",
            json_route("/metrics", false, [this](const httplib::Request&) { return metrics_text(); }));
  http_.Post("/embed", json_route("/embed", true, [this](const httplib::Request& r) { return embed(r); }));
  http_.Post("/search", json_route("/search", true, [this](const httplib::Request& r) { return search(r); }));
  http_.Post("/index",
             json_route("/index", true, [this](const httplib::Request& r) { return add_to_index(r); }));
  http_.Delete("/index", json_route("/index", false, [this](const httplib::Request&) {
                 index_.clear();
                 return index_answer(0, 0);
               }));
  for (const char* path : {"/", "/healthz", "/metrics"}) allow_only(path, {"GET"});
  for (const char* path : {"/embed", "/search"}) allow_only(path, {"POST"});
  allow_only("/index", {"POST", "DELETE"});
}

httplib::Server::Handler Service::json_route(const std::string& path, bool needs_model, Handler handler) {
  const char* type = path == "/"          ? "text/html; charset=utf-8"
                     : path == "/metrics" ? "text/plain; version=0.0.4; charset=utf-8"
                                          : "application/json";
  return [=, this](const httplib::Request& request, httplib::Response& response) {
    const Counted counted(in_flight_);
    const Clock::time_point start = Clock::now();
    if (draining_ || ConnectionPool::overflow()) response.set_header("Connection", "close");
    try {
      if (needs_model && draining_) throw ApiError(503, "the server is stopping");
      if (needs_model && ConnectionPool::overflow()) {
        throw ApiError(503, "all " + std::to_string(options_.connections) + " connections are busy");
      }
      if (request.method == "POST") require_json(request);
      response.set_content(handler(request), type);
      response.status = 200;
    } catch (const ApiError& error) {
      answer_error(response, error.status, error.what());
    } catch (const Overloaded& error) {
      answer_error(response, 503, error.what());
    } catch (const IndexFull& error) {
      answer_error(response, 507, error.what());
    } catch (const std::exception& error) {
      answer_error(response, 500, error.what());
    }
    metrics_.observe_latency(path, std::chrono::duration<double>(Clock::now() - start).count());
  };
}

void Service::allow_only(const std::string& path, const std::vector<std::string>& methods) {
  paths_.push_back(path);
  std::string allowed;
  for (const std::string& method : methods) allowed += (allowed.empty() ? "" : ", ") + method;
  const auto refuse = [path, allowed](const httplib::Request& request, httplib::Response& response) {
    response.set_header("Allow", allowed);
    answer_error(response, 405, request.method + " is not allowed at " + path + ", expected " + allowed);
  };
  const auto free = [&](const char* method) {
    return std::find(methods.begin(), methods.end(), method) == methods.end();
  };
  if (free("GET")) http_.Get(path, refuse);
  if (free("POST")) http_.Post(path, refuse);
  if (free("PUT")) http_.Put(path, refuse);
  if (free("PATCH")) http_.Patch(path, refuse);
  if (free("DELETE")) http_.Delete(path, refuse);
  if (free("OPTIONS")) http_.Options(path, refuse);
}

void Service::add_error_answers() {
  // Errors found before a handler ran have no body yet.
  http_.set_error_handler([](const httplib::Request& request, httplib::Response& response) {
    if (!response.body.empty()) return;
    // httplib refuses forms above 8 KiB before any handler sees them.
    if (response.status == 413 &&
        request.get_header_value("Content-Type").starts_with("application/x-www-form-urlencoded")) {
      response.status = 415;
    }
    const std::string where = response.status == 404 ? ": " + request.path.substr(0, 100) : "";
    answer_error(response, response.status, reason(response.status) + where);
  });
  // Counted before the answer leaves, so that a client that has its answer also finds it in /metrics.
  http_.set_post_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
    const bool known = std::find(paths_.begin(), paths_.end(), request.path) != paths_.end();
    metrics_.count_request(known ? request.path : "other", response.status);
  });
}

std::vector<std::vector<std::int32_t>> Service::tokenize(const std::vector<std::string>& texts,
                                                         const std::string& field) const {
  std::vector<std::vector<std::int32_t>> ids;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    ids.push_back(tokenizer_.encode(texts[i]));
    if (std::ssize(ids.back()) > config_.max_tokens) {
      const std::string name = field == "texts" ? "texts[" + std::to_string(i) + "]" : field;
      throw ApiError(413, "'" + name + "' has " + std::to_string(ids.back().size()) +
                              " word pieces with [CLS] and [SEP], the model takes at most " +
                              std::to_string(config_.max_tokens));
    }
  }
  return ids;
}

std::string Service::embed(const httplib::Request& request) {
  auto ids = tokenize(parse_texts(request.body, options_.max_texts), "texts");
  std::vector<std::int64_t> tokens;
  for (const auto& text : ids) tokens.push_back(std::ssize(text));
  return embed_answer(batcher_.embed(std::move(ids)), config_.hidden, tokens);
}

std::string Service::add_to_index(const httplib::Request& request) {
  const std::vector<std::string> texts = parse_texts(request.body, options_.max_texts);
  const std::int64_t added = index_.add(texts, batcher_.embed(tokenize(texts, "texts")));
  return index_answer(added, index_.size());
}

std::string Service::search(const httplib::Request& request) {
  const SearchRequest search = parse_search(request.body);
  return search_answer(index_.search(batcher_.embed(tokenize({search.query}, "query")), search.top_k));
}

std::string Service::metrics_text() const {
  Gauges gauges;
  gauges.queue_depth = batcher_.depth();
  gauges.queue_capacity = batcher_.options().queue;
  gauges.index_size = index_.size();
  gauges.isa = options_.isa;
  gauges.linear_kernels = options_.linear_kernels;
  return metrics_.prometheus(gauges);
}

}  // namespace inference
