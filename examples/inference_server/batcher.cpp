// SPDX-License-Identifier: Apache-2.0
#include "batcher.h"

#include <algorithm>
#include <exception>
#include <span>
#include <string>
#include <utility>

namespace inference {

struct Batcher::Request {
  std::vector<std::vector<std::int32_t>> texts;
  Done done;
  Clock::time_point since;
  std::size_t taken = 0;  // texts taken by batches, finished ones included
  std::mutex mutex;       // guards the members below
  std::vector<float> vectors;
  std::size_t left = 0;
  std::exception_ptr error;

  /// Stores the vector of a text. True for the last one.
  bool finish(std::size_t index, std::span<const float> vector, const std::exception_ptr& failure) {
    const std::lock_guard lock(mutex);
    vectors.resize(texts.size() * vector.size());
    std::copy(vector.begin(), vector.end(),
              vectors.begin() + static_cast<std::ptrdiff_t>(index * vector.size()));
    if (failure) error = failure;
    return --left == 0;
  }
};

Batcher::Batcher(const Model& model, Metrics& metrics, const BatcherOptions& options)
    : model_(model), metrics_(metrics), options_(options) {
  for (std::int64_t i = 0; i < options_.workers; ++i) threads_.emplace_back([this] { work(); });
}

Batcher::~Batcher() {
  stop();
}

void Batcher::stop() {
  std::deque<std::shared_ptr<Request>> dropped;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    dropped.swap(queue_);
    depth_ = 0;
  }
  changed_.notify_all();
  const auto error = std::make_exception_ptr(Overloaded("the server is stopping"));
  for (const std::shared_ptr<Request>& request : dropped) {
    for (std::size_t i = request->taken; i < request->texts.size(); ++i) {
      if (request->finish(i, {}, error)) request->done({}, error);
    }
  }
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

std::int64_t Batcher::depth() const {
  const std::lock_guard lock(mutex_);
  return depth_;
}

void Batcher::submit(std::vector<std::vector<std::int32_t>> texts, Done done) {
  const auto request = std::make_shared<Request>();
  request->texts = std::move(texts);
  request->left = request->texts.size();
  request->done = std::move(done);
  request->since = Clock::now();
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) throw Overloaded("the server is stopping");
    if (depth_ + std::ssize(request->texts) > options_.queue) {
      throw Overloaded("the queue is full: " + std::to_string(depth_) + " texts waiting, room for " +
                       std::to_string(options_.queue));
    }
    depth_ += std::ssize(request->texts);
    queue_.push_back(request);
  }
  changed_.notify_all();
}

Batcher::Clock::time_point Batcher::oldest() const {
  Clock::time_point first = Clock::time_point::max();
  for (const auto& request : queue_) first = std::min(first, request->since);
  return first;
}

std::vector<Batcher::Item> Batcher::next_batch() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !collecting_ && (stopping_ || !queue_.empty()); });
  if (queue_.empty()) return {};  // stopping, and no text is left
  collecting_ = true;
  changed_.wait_until(lock, oldest() + options_.max_wait,
                      [&] { return stopping_ || depth_ >= options_.max_batch; });
  std::vector<Item> batch = take_batch();
  collecting_ = false;
  lock.unlock();
  changed_.notify_all();
  return batch;
}

std::vector<Batcher::Item> Batcher::take_batch() {
  std::vector<Item> batch;
  std::int64_t tokens = 0;
  while (!queue_.empty() && std::ssize(batch) < options_.max_batch) {
    const std::shared_ptr<Request> request = queue_.front();
    tokens += std::ssize(request->texts[request->taken]);
    if (!batch.empty() && tokens > options_.max_batch_tokens) break;
    queue_.pop_front();
    batch.push_back({request, request->taken++});
    if (request->taken < request->texts.size()) queue_.push_back(request);
  }
  depth_ -= std::ssize(batch);
  return batch;
}

void Batcher::run_batch(std::vector<Item>& batch, Workspace& workspace) {
  const auto width = static_cast<std::size_t>(model_.config().hidden);
  std::vector<std::vector<std::int32_t>> texts;
  std::vector<double> waits;
  const Clock::time_point now = Clock::now();
  for (const Item& item : batch) {
    texts.push_back(std::move(item.request->texts[item.index]));
    waits.push_back(std::chrono::duration<double>(now - item.request->since).count());
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
    if (batch[i].request->finish(batch[i].index, std::span(vectors).subspan(i * width, width), error)) {
      const std::shared_ptr<Request> request = std::move(batch[i].request);
      request->done(std::move(request->vectors), request->error);
    }
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
