// SPDX-License-Identifier: Apache-2.0
// Requests, answers and limits of the HTTP server, independent of the library that reads and writes them.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "memory_budget.h"

namespace inference {

/// ASCII letters in lower case, in every locale.
std::string lower(std::string_view text);

struct HttpLimits {
  std::int64_t connections = 1024;                   ///< open at once; see HttpServer for further ones
  std::int64_t max_body = 4 << 20;                   ///< bytes of a request's body
  std::int64_t max_memory = 64LL << 20;              ///< bytes of all bodies and answers that wait
  std::chrono::milliseconds idle_timeout{60'000};    ///< until a request begins
  std::chrono::milliseconds header_timeout{10'000};  ///< from a request's first byte to the end of its head
  std::chrono::milliseconds body_timeout{30'000};    ///< from the head to the end of the body
  std::chrono::milliseconds write_timeout{30'000};   ///< until the client has taken an answer
  std::chrono::milliseconds drain_grace{300};        ///< until a drain closes an idle connection
  std::chrono::milliseconds drain_timeout{30'000};   ///< until a drain closes the remaining connections

  // Fixed: no client needs more, and a head is held in memory for each connection.
  static constexpr std::int64_t kMaxHead = 16 << 10;  ///< bytes of request line and headers
  static constexpr std::int64_t kMaxHeaders = 100;
};

/// Request line and headers.
struct HttpHead {
  std::string method;
  std::string path;                                          ///< without the query
  std::vector<std::pair<std::string, std::string>> headers;  ///< names in lower case
  bool overflow = false;                                     ///< its connection was beyond the limit

  /// The first header of that name (in lower case), or nothing.
  std::optional<std::string_view> header(std::string_view name) const;
};

struct HttpRequest {
  HttpHead head;
  std::string body;
  MemoryBudget::Lease lease;  ///< of the body
};

struct HttpAnswer {
  int status = 200;
  std::string body;
  std::string content_type = "application/json";
  std::vector<std::pair<std::string, std::string>> headers;
  bool close = false;         ///< the connection ends with this answer
  MemoryBudget::Lease lease;  ///< of the body, if it may be large
};

/// {"error": message} with the status; 503 says when to try again.
HttpAnswer error_response(int status, const std::string& message);

/// Sends the answer of one request, from any thread. All copies belong to the same request; the first call
/// counts. If the last copy is destroyed without a call, the client gets a 500.
class Reply {
 public:
  explicit Reply(std::function<void(HttpAnswer)> send);
  void operator()(HttpAnswer answer) const;

 private:
  struct Pending;
  std::shared_ptr<Pending> pending_;
};

/// The application that a server runs.
class HttpApp {
 public:
  virtual ~HttpApp() = default;
  /// On the I/O thread, once the head is read: must return at once. An answer ends the request, and its body
  /// is not read into memory; without one the request goes on to handle().
  virtual std::optional<HttpAnswer> at_head(const HttpHead& head) = 0;
  /// On a handler thread, with the body.
  virtual void handle(HttpRequest request, Reply reply) = 0;
  /// On the I/O thread, before an answer is sent, `seconds` after the last byte of the request was read;
  /// head.path is empty if there was no valid head. May add headers.
  virtual void before_answer(const HttpHead& head, HttpAnswer& answer, double seconds) = 0;
};

}  // namespace inference
