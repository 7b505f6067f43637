// SPDX-License-Identifier: Apache-2.0
#include "http_server.h"

#include <linux/filter.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <exception>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include "http_connection.h"

namespace inference {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = HttpConnection::Clock;
using std::chrono::milliseconds;

constexpr milliseconds kSweep{100};         // how late a deadline may be enforced
constexpr milliseconds kDrainPort{300};     // how long a drain takes new connections at least
constexpr milliseconds kSurelyIdle{1'000};  // earlier, the next request may be on its way
constexpr std::int64_t kOverflow = 64;      // connections beyond the limit that get an answer

void allow_descriptors() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);  // if it fails, accept() fails later, which is handled
}

/// From here on the kernel drops requests for new connections: one opened between the last accept() and
/// close() would be reset.
void drop_new_connections(int listener) {
  sock_filter drop_all = BPF_STMT(BPF_RET | BPF_K, 0);
  const sock_fprog program{1, &drop_all};
  ::setsockopt(listener, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
}

}  // namespace

class HttpServer::Impl {
 public:
  Impl(const HttpLimits& limits, HttpApp& app) : core(limits, app), acceptor_(core.io), timer_(core.io) {}

  int listen(int port) {
    allow_descriptors();
    const tcp::endpoint wanted(asio::ip::address_v4::loopback(), static_cast<std::uint16_t>(port));
    error_code error;
    acceptor_.open(wanted.protocol(), error);
    acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    acceptor_.bind(wanted, error);
    if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    if (error) {
      throw std::runtime_error("cannot listen on 127.0.0.1:" + std::to_string(port) + ": " + error.message());
    }
    acceptor_.non_blocking(true);
    spawn(accept_all());
    spawn(keep_deadlines());
    thread_ = std::thread([this] { core.io.run(); });
    return acceptor_.local_endpoint().port();
  }

  void drain() {
    if (!thread_.joinable()) return;
    asio::post(core.io, [this] { spawn(drain_all()); });
    thread_.join();
    core.handlers.join();
  }

  void stop() {
    core.io.stop();
    if (thread_.joinable()) thread_.join();
    core.handlers.join();
  }

  HttpCore core;

 private:
  void spawn(asio::awaitable<void> task) {
    asio::co_spawn(core.io, std::move(task), [](std::exception_ptr) {});
  }

  asio::awaitable<void> pause(milliseconds time) {
    asio::steady_timer timer(core.io, time);
    error_code ignored;
    co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }

  asio::awaitable<void> accept_all() {
    while (acceptor_.is_open()) {
      error_code error;
      tcp::socket socket = co_await acceptor_.async_accept(asio::redirect_error(asio::use_awaitable, error));
      if (!error) {
        admit(std::move(socket));
      } else if (acceptor_.is_open() && error != asio::error::connection_aborted) {
        evict_one(milliseconds(0));  // probably out of descriptors
        co_await pause(milliseconds(20));
      }
    }
  }

  void admit(tcp::socket socket) {
    const std::int64_t open = core.open;
    const bool overflow = open >= core.limits.connections && !evict_one(kSurelyIdle);
    if (overflow && open >= core.limits.connections + kOverflow && !evict_one(milliseconds(0)))
      return;  // closes
    error_code ignored;
    socket.set_option(tcp::no_delay(true),
                      ignored);  // Nagle would hold small answers for the peer's delayed ACK, 40 ms
    const auto connection = std::make_shared<HttpConnection>(core, std::move(socket), overflow);
    core.connections.insert(connection.get());
    ++core.open;
    if (core.draining) connection->drain(last_deadline_, last_deadline_);
    asio::co_spawn(core.io, connection->serve(), [this, connection](std::exception_ptr) {
      connection->close();
      core.connections.erase(connection.get());
      --core.open;
    });
  }

  /// Closes the connection that has waited longest among those that are owed no answer, if that is at least
  /// `age`. False if there is none.
  bool evict_one(milliseconds age) {
    HttpConnection* oldest = nullptr;
    for (HttpConnection* connection : core.connections) {
      if (connection->is_busy() || connection->is_closed()) continue;
      if (oldest == nullptr || connection->since() < oldest->since()) oldest = connection;
    }
    if (oldest == nullptr || Clock::now() < oldest->since() + age) return false;
    oldest->close();
    return true;
  }

  asio::awaitable<void> keep_deadlines() {
    while (!is_drained_) {
      error_code cancelled;
      timer_.expires_after(kSweep);
      co_await timer_.async_wait(asio::redirect_error(asio::use_awaitable, cancelled));
      const Clock::time_point now = Clock::now();
      for (HttpConnection* connection : core.connections) connection->expire(now);
    }
  }

  bool is_any_working() const {
    return std::any_of(core.connections.begin(), core.connections.end(),
                       [](const HttpConnection* connection) { return connection->is_working(); });
  }

  asio::awaitable<void> drain_all() {
    const Clock::time_point begin = Clock::now();
    last_deadline_ = begin + core.limits.drain_timeout;
    core.draining = true;
    for (HttpConnection* connection : core.connections)
      connection->drain(last_deadline_, begin + core.limits.drain_grace);
    // The port stays open meanwhile: /healthz reports the drain, and new work gets a 503.
    while (Clock::now() < begin + kDrainPort || (is_any_working() && Clock::now() < last_deadline_)) {
      co_await pause(milliseconds(5));
    }
    drop_new_connections(acceptor_.native_handle());
    error_code error;
    while (!error) {
      tcp::socket socket(core.io);
      acceptor_.accept(socket, error);
      if (!error) admit(std::move(socket));
    }
    acceptor_.close(error);
    last_deadline_ = std::min(last_deadline_, Clock::now() + core.limits.drain_grace);
    for (HttpConnection* connection : core.connections) {
      if (!connection->is_busy()) connection->drain(last_deadline_, last_deadline_);
    }
    while (!core.connections.empty()) co_await pause(milliseconds(5));
    // The timer may have run out, and its handler be still to come: then cancel() has no effect.
    is_drained_ = true;
    timer_.cancel();
  }

  tcp::acceptor acceptor_;
  asio::steady_timer timer_;
  bool is_drained_ = false;
  Clock::time_point last_deadline_ = Clock::time_point::max();
  std::thread thread_;
};

HttpServer::HttpServer(const HttpLimits& limits, HttpApp& app) : impl_(std::make_unique<Impl>(limits, app)) {}

HttpServer::~HttpServer() {
  impl_->stop();
}

int HttpServer::start(int port) {
  return impl_->listen(port);
}

void HttpServer::drain() {
  impl_->drain();
}

bool HttpServer::is_draining() const {
  return impl_->core.draining;
}

void HttpServer::run(std::function<void()> task) {
  asio::post(impl_->core.handlers, std::move(task));
}

MemoryBudget& HttpServer::memory() {
  return impl_->core.memory;
}

std::int64_t HttpServer::connections() const {
  return impl_->core.open;
}

}  // namespace inference
