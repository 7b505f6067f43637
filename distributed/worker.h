// SPDX-License-Identifier: Apache-2.0
// A thread that computes while its owner makes MPI progress.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace kumiko::distributed {

class Worker {
 public:
  Worker() : thread_([this] { loop(); }) {}
  ~Worker() {
    {
      const std::lock_guard lock(mutex_);
      ends_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  Worker(const Worker&) = delete;

  /// `work` must not throw; one at a time.
  void start(std::function<void()> work) {
    {
      const std::lock_guard lock(mutex_);
      work_ = std::move(work);
      is_busy_ = true;
    }
    changed_.notify_all();
  }
  bool is_busy() {
    const std::lock_guard lock(mutex_);
    return is_busy_;
  }
  /// Sleeps until the work is done, or for so long.
  void wait(std::chrono::microseconds most) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, most, [this] { return !is_busy_; });
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !is_busy_; });
  }

 private:
  void loop() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return is_busy_ || ends_; });
      if (!is_busy_) return;
      lock.unlock();
      work_();
      lock.lock();
      is_busy_ = false;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void()> work_;
  bool is_busy_ = false, ends_ = false;
  std::thread thread_;  // last: it uses all others
};

}  // namespace kumiko::distributed
