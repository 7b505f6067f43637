#include "batcher.h"

#include <algorithm>
#include <exception>
#include <string>
#include <utility>

namespace inference {

struct Batcher::Request {
  std::vector<std::vector<std::int32_t>> texts;
  std::vector<float> vectors;
  std::mutex mutex;
  std::condition_variable done;
  std::size_t left = 0;
  std::exception_ptr error;
};

Batcher::Batcher(const Model& model, Metrics& metrics, const BatcherOptions& options)
    : model_(model), metrics_(metrics), options_(options) {
  for (std::int64_t i = 0; i < options_.workers; ++i) threads_.emplace_back([this] { work(); });
}

Batcher::~Batcher() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

std::int64_t Batcher::depth() const {
  const std::lock_guard lock(mutex_);
  return std::ssize(queue_);
}

std::vector<float> Batcher::embed(std::vector<std::vector<std::int32_t>> texts) {
  const auto request = std::make_shared<Request>();
  request->texts = std::move(texts);
  request->left = request->texts.size();
  request->vectors.resize(request->texts.size() * static_cast<std::size_t>(model_.config().hidden));
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) throw Overloaded("the server is stopping");
    if (std::ssize(queue_) + std::ssize(request->texts) > options_.queue) {
      throw Overloaded("the queue is full: " + std::to_string(queue_.size()) + " texts waiting, room for " +
                       std::to_string(options_.queue));
    }
    const Clock::time_point now = Clock::now();
    for (std::size_t i = 0; i < request->texts.size(); ++i) queue_.push_back({request, i, now});
  }
  changed_.notify_all();
  std::unique_lock lock(request->mutex);
  request->done.wait(lock, [&] { return request->left == 0; });
  if (request->error) std::rethrow_exception(request->error);
  return std::move(request->vectors);
}

std::vector<Batcher::Item> Batcher::next_batch() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !collecting_ && (stopping_ || !queue_.empty()); });
  if (queue_.empty()) return {};  // stopping, and nothing left to do
  collecting_ = true;
  changed_.wait_until(lock, queue_.front().since + options_.max_wait,
                      [&] { return stopping_ || std::ssize(queue_) >= options_.max_batch; });
  const auto count = std::min(std::ssize(queue_), options_.max_batch);
  std::vector<Item> batch(std::make_move_iterator(queue_.begin()),
                          std::make_move_iterator(queue_.begin() + count));
  queue_.erase(queue_.begin(), queue_.begin() + count);
  collecting_ = false;
  lock.unlock();
  changed_.notify_all();
  return batch;
}

void Batcher::run_batch(std::vector<Item>& batch, Workspace& workspace) {
  const auto width = static_cast<std::size_t>(model_.config().hidden);
  std::vector<std::vector<std::int32_t>> texts;
  std::vector<double> waits;
  const Clock::time_point now = Clock::now();
  for (const Item& item : batch) {
    texts.push_back(std::move(item.request->texts[item.index]));
    waits.push_back(std::chrono::duration<double>(now - item.since).count());
  }
  std::vector<float> vectors(batch.size() * width);
  std::exception_ptr error;
  try {
    const ForwardStats stats = model_.forward(texts, workspace, vectors);
    metrics_.observe_batch(stats, waits);
  } catch (...) {
    error = std::current_exception();
  }
  for (std::size_t i = 0; i < batch.size(); ++i) {
    Request& request = *batch[i].request;
    std::copy_n(vectors.begin() + static_cast<std::ptrdiff_t>(i * width), width,
                request.vectors.begin() + static_cast<std::ptrdiff_t>(batch[i].index * width));
    const std::lock_guard lock(request.mutex);
    if (error) request.error = error;
    if (--request.left == 0) request.done.notify_all();
  }
}

void Batcher::work() {
  Workspace workspace;
  for (;;) {
    std::vector<Item> batch = next_batch();
    if (batch.empty()) return;
    run_batch(batch, workspace);
  }
}

}  // namespace inference
