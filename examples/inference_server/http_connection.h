// SPDX-License-Identifier: Apache-2.0
// One client's connection: reads requests one after another, gets them answered, and enforces every limit and
// deadline.
#pragma once

// clang-format off
#include <utility>  // first: Boost 1.74's awaitable.hpp uses std::exchange without it
// clang-format on

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_set>

#include "http.h"

namespace inference {

class HttpConnection;

/// Shared by all connections of a server. Other threads than the I/O thread use only `handlers`, `memory`,
/// `open` and `draining`.
struct HttpCore {
  static constexpr int kHandlerThreads = 2;  // they parse and format; the embedding has threads of its own

  HttpCore(const HttpLimits& http_limits, HttpApp& http_app)
      : limits(http_limits), app(http_app), memory(http_limits.max_memory) {}
  const HttpLimits limits;
  HttpApp& app;
  MemoryBudget memory;
  boost::asio::io_context io{1};
  boost::asio::thread_pool handlers{kHandlerThreads};
  std::unordered_set<HttpConnection*> connections;
  std::atomic<std::int64_t> open{0};
  std::atomic<bool> draining{false};
};

class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  using Clock = std::chrono::steady_clock;
  /// `overflow`: beyond the limit of connections; answers one request and closes.
  HttpConnection(HttpCore& core, boost::asio::ip::tcp::socket socket, bool overflow);

  /// Serves until the connection ends. Must not be destroyed before that.
  boost::asio::awaitable<void> serve();

  /// True while an answer is computed or written: the connection must not be ended then.
  bool is_busy() const { return state_ == State::working || state_ == State::writing; }
  bool is_working() const { return state_ == State::working; }
  Clock::time_point since() const { return since_; }  ///< start of the current state

  /// Ends whatever has passed its deadline. Called regularly: a deadline missed by one call is handled by the
  /// next.
  void expire(Clock::time_point now);
  /// From now on no step may end later than `deadline`; requests are answered with 503 and the connection
  /// closes.
  void drain(Clock::time_point deadline, Clock::time_point idle_deadline);
  void close();
  bool is_closed() const { return !socket_.is_open(); }

 private:
  enum class State { idle, reading, working, writing, lingering };
  using Milliseconds = std::chrono::milliseconds;

  void enter(State state, Milliseconds timeout);
  boost::asio::awaitable<bool> wait_for_request();
  /// False if the connection has to end.
  boost::asio::awaitable<bool> serve_request();
  template <class Parser>
  boost::asio::awaitable<boost::system::error_code> read_body(Parser& parser);
  Reply reply();
  boost::asio::awaitable<HttpAnswer> computed_answer(HttpRequest request);
  boost::asio::awaitable<bool> write_answer(const HttpHead& head, HttpAnswer answer, bool keep_alive,
                                            unsigned version);
  boost::asio::awaitable<void> linger();
  /// The answer to a request that could not be read; nothing if the client is gone.
  std::optional<HttpAnswer> refusal(const boost::system::error_code& error, bool has_target) const;

  HttpCore& core_;
  boost::asio::ip::tcp::socket socket_;
  boost::beast::flat_buffer buffer_;
  boost::asio::steady_timer answered_;
  std::optional<HttpAnswer> answer_;
  const bool overflow_;
  State state_ = State::idle;
  Clock::time_point since_ = Clock::now();
  Clock::time_point request_read_ = since_;
  Clock::time_point deadline_ = Clock::time_point::max();
  Clock::time_point last_deadline_ = Clock::time_point::max();       // of a drain
  Clock::time_point last_idle_deadline_ = Clock::time_point::max();  // of a drain
  bool timed_out_ = false;
};

}  // namespace inference
