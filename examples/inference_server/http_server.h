// SPDX-License-Identifier: Apache-2.0
// An HTTP/1.1 server on 127.0.0.1: one thread reads and writes all connections, so that an idle client costs
// one or two kilobytes and no thread, and no client can block another. Requests are handled on separate
// threads.
//
// Limits (HttpLimits): bytes of the head, of the body, and of all bodies and answers together; a deadline for
// each step. Bodies must be plain: no Content-Encoding, no ranges. A connection beyond the limit replaces the
// one that has been idle, sending or leaving for the longest, if that is a second or more. Otherwise it is
// served as `overflow`: one request, which the application should refuse unless it is cheap.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "http.h"

namespace inference {

class HttpServer {
 public:
  /// `app` must outlive the server.
  HttpServer(const HttpLimits& limits, HttpApp& app);
  ~HttpServer();  ///< stops at once if drain() was not called

  /// Binds 127.0.0.1:port (0: any free port) and serves. Returns the port. Throws std::runtime_error if the
  /// port is not available.
  int start(int port);

  /// Every request already sent gets its answer: the one it waits for, or a 503 with Connection: close. Then
  /// closes the port and every connection, at the latest after HttpLimits::drain_timeout. Blocks until then.
  void drain();
  bool is_draining() const;

  /// Runs `task` on a handler thread. It must not throw.
  void run(std::function<void()> task);

  MemoryBudget& memory();
  std::int64_t connections() const;  ///< open now

 private:
  class Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace inference
