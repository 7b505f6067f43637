// A bounded queue of texts and the worker threads that embed them in batches.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

#include "metrics.h"
#include "model.h"

namespace inference {

/// The queue has no room, or the server is stopping. Nothing of the request was queued.
struct Overloaded : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct BatcherOptions {
  std::int64_t workers = 2;                 ///< threads; each embeds one batch at a time
  std::int64_t max_batch = 32;              ///< texts per batch
  std::int64_t queue = 1024;                ///< texts waiting, all requests together
  std::chrono::microseconds max_wait{500};  ///< how long the first text of a batch waits for company
};

class Batcher {
 public:
  /// `model` and `metrics` must outlive the batcher.
  Batcher(const Model& model, Metrics& metrics, const BatcherOptions& options);
  /// Embeds what is queued, then joins the workers.
  ~Batcher();
  Batcher(const Batcher&) = delete;
  Batcher& operator=(const Batcher&) = delete;

  /// Unit vectors [texts.size(), hidden]; blocks until they are there. `texts` holds checked token ids.
  /// Throws Overloaded when the queue cannot take all of them, std::runtime_error when the model failed. Any
  /// number of threads may call.
  std::vector<float> embed(std::vector<std::vector<std::int32_t>> texts);

  std::int64_t depth() const;
  const BatcherOptions& options() const { return options_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Request;
  struct Item {
    std::shared_ptr<Request> request;
    std::size_t index = 0;
    Clock::time_point since;
  };
  void work();
  std::vector<Item> next_batch();
  void run_batch(std::vector<Item>& batch, Workspace& workspace);

  const Model& model_;
  Metrics& metrics_;
  const BatcherOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Item> queue_;
  bool collecting_ = false;  // one worker gathers a batch at a time, the others wait for their turn
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace inference
