#include "connection_pool.h"

#include <utility>

namespace inference {
namespace {

constexpr std::size_t kSpareThreads = 2;
thread_local bool is_spare_thread = false;

}  // namespace

ConnectionPool::ConnectionPool(std::size_t threads) {
  // Counted here, not when each thread arrives: the first connections must not look like overflow.
  regular_.idle = threads;
  spare_.idle = kSpareThreads;
  for (std::size_t i = 0; i < threads; ++i) threads_.emplace_back([this] { serve(regular_, false); });
  for (std::size_t i = 0; i < kSpareThreads; ++i) threads_.emplace_back([this] { serve(spare_, true); });
}

bool ConnectionPool::overflow() {
  return is_spare_thread;
}

void ConnectionPool::enqueue(std::function<void()> connection) {
  const std::lock_guard lock(mutex_);
  Lane& lane = regular_.waiting.size() < regular_.idle ? regular_ : spare_;
  lane.waiting.push_back(std::move(connection));
  lane.changed.notify_one();
}

void ConnectionPool::serve(Lane& lane, bool is_overflow) {
  is_spare_thread = is_overflow;
  std::unique_lock lock(mutex_);
  for (;;) {
    lane.changed.wait(lock, [&] { return stopping_ || !lane.waiting.empty(); });
    if (lane.waiting.empty()) return;
    const std::function<void()> connection = std::move(lane.waiting.front());
    lane.waiting.pop_front();
    --lane.idle;
    lock.unlock();
    connection();
    lock.lock();
    ++lane.idle;
  }
}

void ConnectionPool::shutdown() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  regular_.changed.notify_all();
  spare_.changed.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

}  // namespace inference
