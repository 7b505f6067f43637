// Threads that serve HTTP connections, with an answer for those that come when all are busy.
#pragma once

#include <httplib.h>

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace inference {

/// A connection that finds no free thread is served by one of two spare threads, whose handlers see
/// overflow() and refuse work with 503 at once instead of letting the client wait. Owned by httplib::Server.
class ConnectionPool : public httplib::TaskQueue {
 public:
  explicit ConnectionPool(std::size_t threads);
  void enqueue(std::function<void()> connection) override;
  /// Serves what was accepted, then joins.
  void shutdown() override;

  /// True on a spare thread.
  static bool overflow();

 private:
  struct Lane {
    std::deque<std::function<void()>> waiting;
    std::condition_variable changed;
    std::size_t idle = 0;
  };
  void serve(Lane& lane, bool is_overflow);

  std::mutex mutex_;
  Lane regular_, spare_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace inference
