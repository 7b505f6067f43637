// SPDX-License-Identifier: Apache-2.0
// A bounded queue of texts and the worker threads that embed them in batches.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

#include "metrics.h"
#include "model.h"

namespace inference {

/// The queue has no room, or the server is stopping. No text of the request was queued.
struct Overloaded : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct BatcherOptions {
  std::int64_t workers = 2;     ///< threads; each embeds one batch at a time
  std::int64_t max_batch = 32;  ///< texts per batch
  std::int64_t max_batch_tokens =
      1024;                   ///< word pieces per batch, but at least one text; bounds a worker's memory
  std::int64_t queue = 1024;  ///< texts waiting, all requests together
  std::chrono::microseconds max_wait{500};  ///< how long the first text of a batch waits for others
};

class Batcher {
 public:
  /// `model` and `metrics` must outlive the batcher.
  Batcher(const Model& model, Metrics& metrics, const BatcherOptions& options);
  ~Batcher();  ///< stop()
  Batcher(const Batcher&) = delete;
  Batcher& operator=(const Batcher&) = delete;

  /// Gets the unit vectors [texts, hidden], or an exception: the model's, or Overloaded after stop(). Called
  /// once, on a worker thread or the one that calls stop().
  using Done = std::function<void(std::vector<float> vectors, std::exception_ptr error)>;

  /// Queues the texts, at least one, with checked token ids. A batch takes one text of each request in turn,
  /// so that a request of one text does not wait for an earlier one of hundreds. Throws Overloaded if the
  /// queue cannot take all of them; then `done` is not called. Any number of threads may call.
  void submit(std::vector<std::vector<std::int32_t>> texts, Done done);

  /// Ends the batches being computed, not the texts in the queue: their requests get Overloaded. Joins the
  /// workers.
  void stop();

  std::int64_t depth() const;  ///< texts waiting
  const BatcherOptions& options() const { return options_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Request;
  struct Item {
    std::shared_ptr<Request> request;
    std::size_t index = 0;
  };
  void work();
  std::vector<Item> next_batch();
  std::vector<Item> take_batch();
  Clock::time_point oldest() const;
  void run_batch(std::vector<Item>& batch, Workspace& workspace);

  const Model& model_;
  Metrics& metrics_;
  const BatcherOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Request>>
      queue_;                // requests with texts that no batch has taken; the front's turn is next
  std::int64_t depth_ = 0;   // number of these texts
  bool collecting_ = false;  // one worker at a time gathers a batch, the others wait
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace inference
