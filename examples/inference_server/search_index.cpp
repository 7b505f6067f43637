// SPDX-License-Identifier: Apache-2.0
#include "search_index.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <utility>

#include "elementwise.h"
#include "unicode.h"

namespace inference {
namespace {

// The largest value of a unit vector is 1; rounding may add a few units in the last place.
constexpr float kMaxValue = 1.0001f;

/// The check for rows from add() or from a file: other values would spoil the answers or their JSON later.
/// Throws std::invalid_argument.
void check_row(const std::string& text, std::span<const float> vector) {
  (void)decode_utf8(text);
  for (std::size_t i = 0; i < vector.size(); ++i) {
    if (!(std::abs(vector[i]) <= kMaxValue))  // also true for NaN
      throw std::invalid_argument("value " + std::to_string(i) + " of the vector is " +
                                  std::to_string(vector[i]) + ", expected -1..1");
  }
}

/// Makes room for `more` values, so that adding them cannot fail. Doubles like push_back.
template <class Value>
void make_room(std::vector<Value>& values, std::size_t more) {
  const std::size_t size = values.size() + more;
  if (size > values.capacity()) values.reserve(std::max(size, 2 * values.capacity()));
}

}  // namespace

std::unique_ptr<SearchIndex> SearchIndex::open(const std::filesystem::path& path, std::string_view model,
                                               std::int64_t width, std::int64_t capacity,
                                               std::int64_t max_text_bytes) {
  auto index = std::make_unique<SearchIndex>(width, capacity, max_text_bytes);
  index->load(std::make_unique<IndexFile>(path, model, width));
  return index;
}

void SearchIndex::load(std::unique_ptr<IndexFile> file) {
  const std::filesystem::path& path = file->path();
  if (file->rows() > capacity_) {
    throw IndexFull(path.string() + ": holds " + std::to_string(file->rows()) +
                    " texts, the index has room for " + std::to_string(capacity_));
  }
  texts_.reserve(static_cast<std::size_t>(file->rows()));
  vectors_.reserve(static_cast<std::size_t>(file->rows() * width_));
  file->read([&](std::string text, std::span<const float> vector) {
    const std::string where = "row " + std::to_string(texts_.size()) + ": ";
    try {
      check_row(text, vector);
    } catch (const std::invalid_argument& error) {
      throw IndexFileError(path, where + error.what());
    }
    text_bytes_ += std::ssize(text);
    if (text_bytes_ > max_text_bytes_) {
      throw IndexFull(path.string() + ": the texts up to " + where + std::to_string(text_bytes_) +
                      " bytes, the index has room for " + std::to_string(max_text_bytes_));
    }
    if (!known_.insert(text).second) throw IndexFileError(path, where + "its text is there twice");
    texts_.push_back(std::move(text));
    vectors_.insert(vectors_.end(), vector.begin(), vector.end());
  });
  file_ = std::move(file);
  size_ = std::ssize(texts_);
}

void SearchIndex::require_room(std::int64_t texts, std::int64_t bytes) const {
  if (size_ + texts > capacity_) {
    throw IndexFull("the index holds " + std::to_string(size_) + " texts and has room for " +
                    std::to_string(capacity_) + ", the request adds " + std::to_string(texts));
  }
  if (text_bytes_ + bytes > max_text_bytes_) {
    throw IndexFull("the texts of the index have " + std::to_string(text_bytes_) + " bytes and room for " +
                    std::to_string(max_text_bytes_) + ", the request adds " + std::to_string(bytes));
  }
}

std::int64_t SearchIndex::add(const std::vector<std::string>& texts, std::span<const float> vectors) {
  const auto width = static_cast<std::size_t>(width_);
  if (vectors.size() != texts.size() * width) {
    throw std::invalid_argument("vectors has " + std::to_string(vectors.size()) + " values, expected " +
                                std::to_string(texts.size()) + " x " + std::to_string(width));
  }
  const std::lock_guard change(changing_);
  std::vector<std::string> fresh_texts;
  std::vector<float> fresh_vectors;
  std::unordered_set<std::string> fresh_known;
  std::int64_t bytes = 0;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (known_.contains(texts[i]) || !fresh_known.insert(texts[i]).second) continue;
    const std::span<const float> vector = vectors.subspan(i * width, width);
    check_row(texts[i], vector);
    fresh_texts.push_back(texts[i]);
    fresh_vectors.insert(fresh_vectors.end(), vector.begin(), vector.end());
    bytes += std::ssize(texts[i]);
  }
  require_room(std::ssize(fresh_texts), bytes);
  if (fresh_texts.empty()) return 0;

  // Allocate everything first: once the file has the rows, nothing may fail here.
  known_.reserve(known_.size() + fresh_known.size());
  {
    const std::unique_lock lock(reading_);
    make_room(texts_, fresh_texts.size());
    make_room(vectors_, fresh_vectors.size());
  }
  if (file_) {
    std::vector<IndexFile::Row> rows;
    for (std::size_t i = 0; i < fresh_texts.size(); ++i)
      rows.push_back({fresh_texts[i], std::span(fresh_vectors).subspan(i * width, width)});
    file_->append(rows);
  }
  const std::unique_lock lock(reading_);
  const std::int64_t added = std::ssize(fresh_texts);
  known_.merge(fresh_known);
  texts_.insert(texts_.end(), std::move_iterator(fresh_texts.begin()), std::move_iterator(fresh_texts.end()));
  vectors_.insert(vectors_.end(), fresh_vectors.begin(), fresh_vectors.end());
  text_bytes_ += bytes;
  size_ = std::ssize(texts_);
  return added;
}

std::vector<SearchIndex::Hit> SearchIndex::search(std::span<const float> query, std::int64_t top_k) const {
  const std::shared_lock lock(reading_);
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
  const std::lock_guard change(changing_);
  if (file_) file_->clear();
  known_.clear();
  text_bytes_ = 0;
  const std::unique_lock lock(reading_);
  texts_.clear();
  vectors_.clear();
  size_ = 0;
}

}  // namespace inference
