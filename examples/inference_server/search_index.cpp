#include "search_index.h"

#include <algorithm>
#include <mutex>
#include <numeric>

#include "elementwise.h"

namespace inference {

std::int64_t SearchIndex::add(const std::vector<std::string>& texts, std::span<const float> vectors) {
  const std::unique_lock lock(mutex_);
  std::vector<std::size_t> fresh;
  std::unordered_set<std::string> seen;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (!known_.contains(texts[i]) && seen.insert(texts[i]).second) fresh.push_back(i);
  }
  if (std::ssize(texts_) + std::ssize(fresh) > capacity_) {
    throw IndexFull("the index holds " + std::to_string(texts_.size()) + " texts and has room for " +
                    std::to_string(capacity_) + ", the request adds " + std::to_string(fresh.size()));
  }
  for (std::size_t i : fresh) {
    texts_.push_back(texts[i]);
    known_.insert(texts[i]);
    const auto first = vectors.begin() + static_cast<std::ptrdiff_t>(i) * width_;
    vectors_.insert(vectors_.end(), first, first + width_);
  }
  return std::ssize(fresh);
}

std::vector<SearchIndex::Hit> SearchIndex::search(std::span<const float> query, std::int64_t top_k) const {
  const std::shared_lock lock(mutex_);
  const std::int64_t count = std::ssize(texts_);
  if (count == 0) return {};
  std::vector<float> scores(static_cast<std::size_t>(count));
  dot_rows(count, width_, vectors_.data(), query.data(), scores.data());
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto end = order.begin() + std::min(top_k, count);
  std::partial_sort(order.begin(), end, order.end(), [&](std::size_t a, std::size_t b) {
    return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
  });
  std::vector<Hit> hits;
  for (auto it = order.begin(); it != end; ++it) {
    hits.push_back({static_cast<std::int64_t>(*it), texts_[*it], scores[*it]});
  }
  return hits;
}

void SearchIndex::clear() {
  const std::unique_lock lock(mutex_);
  texts_.clear();
  known_.clear();
  vectors_.clear();
}

std::int64_t SearchIndex::size() const {
  const std::shared_lock lock(mutex_);
  return std::ssize(texts_);
}

}  // namespace inference
