// SPDX-License-Identifier: Apache-2.0
// Texts and their unit vectors; exact nearest neighbours by cosine.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "index_file.h"

namespace inference {

/// The index cannot take all texts of a request. No text was added.
struct IndexFull : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Any number of threads may call at once. Changes wait for one another and for the disk. size() and search()
/// never wait for the disk: until a change is on it they see the texts from before.
class SearchIndex {
 public:
  struct Hit {
    std::int64_t id = 0;  ///< order of indexing, from 0
    std::string text;
    float score = 0;  ///< cosine, -1..1
  };

  static constexpr std::int64_t kMaxTextBytes = std::int64_t{32} << 20;

  /// Vectors have `width` floats; at most `capacity` texts of `max_text_bytes` together. Kept in memory only.
  SearchIndex(std::int64_t width, std::int64_t capacity, std::int64_t max_text_bytes = kMaxTextBytes)
      : width_(width), capacity_(capacity), max_text_bytes_(max_text_bytes) {}

  /// The same, stored in the file `path` (index_file.h), with the texts already there. `model`:
  /// model_fingerprint(). Throws IndexFileError, also if add() would have refused a text or vector of the
  /// file, and IndexFull if there are more than fit.
  static std::unique_ptr<SearchIndex> open(const std::filesystem::path& path, std::string_view model,
                                           std::int64_t width, std::int64_t capacity,
                                           std::int64_t max_text_bytes = kMaxTextBytes);

  /// Adds the texts that are not there yet and returns their number. vectors: [texts.size(), width], each
  /// value in -1..1. Throws IndexFull, IndexFileError, or std::invalid_argument for a text that is not UTF-8
  /// or a vector with NaN or infinity; then nothing was added.
  std::int64_t add(const std::vector<std::string>& texts, std::span<const float> vectors);
  /// The `top_k` nearest to `query` [width], best first; of equal scores the earlier text first.
  std::vector<Hit> search(std::span<const float> query, std::int64_t top_k) const;
  /// Throws IndexFileError; then nothing was removed.
  void clear();
  std::int64_t size() const { return size_; }

 private:
  void load(std::unique_ptr<IndexFile> file);
  void require_room(std::int64_t texts, std::int64_t bytes) const;

  const std::int64_t width_;
  const std::int64_t capacity_;
  const std::int64_t max_text_bytes_;

  std::mutex changing_;  // held over a whole change, disk included; guards the next three
  std::unique_ptr<IndexFile> file_;
  std::unordered_set<std::string> known_;
  std::int64_t text_bytes_ = 0;

  mutable std::shared_mutex reading_;  // guards the next two; changed under both locks
  std::vector<std::string> texts_;
  std::vector<float> vectors_;
  std::atomic<std::int64_t> size_{0};
};

}  // namespace inference
