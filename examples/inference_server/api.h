// The JSON that goes in and out of the endpoints.
#pragma once

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "search_index.h"

namespace inference {

/// An answer other than 200, with a sentence that says why.
struct ApiError : std::runtime_error {
  ApiError(int http_status, const std::string& message) : std::runtime_error(message), status(http_status) {}
  int status;
};

struct SearchRequest {
  std::string query;
  std::int64_t top_k = 5;
};

constexpr std::int64_t kMaxTopK = 100;

/// {"texts": ["...", ...]} with 1..max_texts strings. Throws ApiError: 400 not JSON, 413 too many texts, 422
/// anything else.
std::vector<std::string> parse_texts(const std::string& body, std::int64_t max_texts);

/// {"query": "...", "top_k": 1..100}; top_k may be left out. Throws ApiError: 400 not JSON, 422 anything
/// else.
SearchRequest parse_search(const std::string& body);

/// {"embeddings": [[...], ...], "dim": width, "tokens": [...]}; numbers have as many digits as an f32 needs
/// to come back exactly.
std::string embed_answer(std::span<const float> vectors, std::int64_t width,
                         std::span<const std::int64_t> tokens);

/// {"added": n, "size": m}
std::string index_answer(std::int64_t added, std::int64_t size);

/// {"results": [{"id": 0, "text": "...", "score": 0.5}, ...]}
std::string search_answer(const std::vector<SearchIndex::Hit>& hits);

/// {"error": "..."}
std::string error_answer(const std::string& message);

}  // namespace inference
