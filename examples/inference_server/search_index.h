// Texts and their unit vectors; exact nearest neighbours by cosine.
#pragma once

#include <cstdint>
#include <shared_mutex>
#include <span>
#include <stdexcept>
#include <string>
#include <unordered_set>
#include <vector>

namespace inference {

/// The index cannot take all texts of a request. None was added.
struct IndexFull : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class SearchIndex {
 public:
  struct Hit {
    std::int64_t id = 0;  ///< order of indexing, from 0
    std::string text;
    float score = 0;  ///< cosine, -1..1
  };

  /// Vectors have `width` floats; at most `capacity` texts.
  SearchIndex(std::int64_t width, std::int64_t capacity) : width_(width), capacity_(capacity) {}

  /// Adds the texts that are not there yet and returns how many those were. vectors: [texts.size(), width].
  /// Throws IndexFull.
  std::int64_t add(const std::vector<std::string>& texts, std::span<const float> vectors);
  /// The `top_k` nearest to `query` [width], best first; of equal scores the earlier text first.
  std::vector<Hit> search(std::span<const float> query, std::int64_t top_k) const;
  void clear();
  std::int64_t size() const;

 private:
  const std::int64_t width_;
  const std::int64_t capacity_;
  mutable std::shared_mutex mutex_;
  std::vector<std::string> texts_;
  std::unordered_set<std::string> known_;
  std::vector<float> vectors_;
};

}  // namespace inference
