// SPDX-License-Identifier: Apache-2.0
// The endpoints' JSON, in and out.
#pragma once

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "search_index.h"

namespace inference {

/// An answer other than 200, with a sentence on the reason.
struct ApiError : std::runtime_error {
  ApiError(int http_status, const std::string& message) : std::runtime_error(message), status(http_status) {}
  int status;
};

struct SearchRequest {
  std::string query;
  std::int64_t top_k = 5;
};

constexpr std::int64_t kMaxTopK = 100;

/// Limit of one text. The model's 256 word pieces are about 1 KiB of English; 16 KiB limits the tokenizer's
/// work before it finds the text too long.
constexpr std::int64_t kMaxTextBytes = 16'384;

/// {"texts": ["...", ...]} with 1..max_texts strings of at most kMaxTextBytes. Throws ApiError: 400 not JSON
/// or deeper than 8 levels, 413 too many texts or one too long, 422 anything else. Reading stops at the first
/// cause of a 413.
std::vector<std::string> parse_texts(std::string_view body, std::int64_t max_texts);

/// {"query": "...", "top_k": 1..100}; top_k may be left out. Throws ApiError: 400 not JSON or deeper than 8
/// levels, 413 a query above kMaxTextBytes, 422 anything else.
SearchRequest parse_search(std::string_view body);

/// {"embeddings": [[...], ...], "dim": width, "tokens": [...]}; numbers have as many digits as are needed to
/// read back the same f32.
std::string embed_answer(std::span<const float> vectors, std::int64_t width,
                         std::span<const std::int64_t> tokens);

/// {"added": n, "size": m}
std::string index_answer(std::int64_t added, std::int64_t size);

/// {"results": [{"id": 0, "text": "...", "score": 0.5}, ...]}
std::string search_answer(const std::vector<SearchIndex::Hit>& hits);

/// {"error": "..."}
std::string error_answer(const std::string& message);

}  // namespace inference
