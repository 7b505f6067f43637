// SPDX-License-Identifier: Apache-2.0
#include "api.h"

#include <algorithm>
#include <charconv>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "json_reader.h"

namespace inference {
namespace {

using Json = nlohmann::json;

// The endpoints need 2 levels.
constexpr std::size_t kRequestDepth = 8;

/// Shared by the bodies of all endpoints. A fault in the content is reported only after the rest has been
/// read: if the body is not JSON at all, that is reported instead.
class RequestReader : public JsonReader {
 public:
  explicit RequestReader(std::initializer_list<std::string_view> fields) : fields_(fields) {}

  void read(std::string_view body) {
    try {
      JsonReader::read(body, kRequestDepth);
    } catch (const JsonError& error) {
      throw ApiError(400, std::string("the body ") + error.what());
    }
    if (!fault_.empty()) throw ApiError(422, fault_);
  }

 protected:
  ~RequestReader() = default;

  virtual void on_field(JsonValue& value) = 0;

  bool seen(std::string_view field) const {
    return std::find(seen_.begin(), seen_.end(), field) != seen_.end();
  }
  void fault(std::string message) {
    if (fault_.empty()) fault_ = std::move(message);
  }
  std::string take_text(JsonValue& value, const std::string& name) {
    if (value.kind != JsonValue::Kind::kString) {
      fault("'" + name + "' must be a string, " + value.is());
      return {};
    }
    if (value.text.size() > static_cast<std::size_t>(kMaxTextBytes)) {
      throw ApiError(413, "'" + name + "' has " + std::to_string(value.text.size()) + " bytes, at most " +
                              std::to_string(kMaxTextBytes) + " are taken");
    }
    return std::move(value.text);
  }

 private:
  void on_key() override {
    if (path().size() != 1 || !fault_.empty()) return;
    const std::string& key = path().front().key;
    if (seen(key)) return fault("field " + quote_json(key) + " is given twice");
    if (std::find(fields_.begin(), fields_.end(), key) != fields_.end()) {
      seen_.push_back(key);
      return;
    }
    std::string known;
    for (std::string_view field : fields_)
      known.append(known.empty() ? "'" : ", '").append(field).append("'");
    fault("field " + quote_json(key) + " is not known, expected " + known);
  }
  void on_value(JsonValue value) override {
    if (!fault_.empty()) return;
    if (!path().empty()) return on_field(value);
    if (value.kind != JsonValue::Kind::kObject) fault("the body must be a JSON object, " + value.is());
  }

  const std::vector<std::string_view> fields_;
  std::vector<std::string> seen_;
  std::string fault_;
};

class TextsReader final : public RequestReader {
 public:
  explicit TextsReader(std::int64_t max_texts) : RequestReader({"texts"}), max_texts_(max_texts) {}

  std::vector<std::string> take(std::string_view body) {
    read(body);
    if (!seen("texts")) throw ApiError(422, "'texts' is missing, expected an array of strings");
    if (texts_.empty()) throw ApiError(422, "'texts' is empty, expected at least one string");
    return std::move(texts_);
  }

 private:
  void on_field(JsonValue& value) override {
    if (path().size() == 1) {
      if (value.kind != JsonValue::Kind::kArray) fault("'texts' must be an array of strings, " + value.is());
      return;
    }
    const std::int64_t index = path()[1].index;
    if (index >= max_texts_) {
      throw ApiError(413, "'texts' has more than " + std::to_string(max_texts_) +
                              " texts, the most that one request may have");
    }
    texts_.push_back(take_text(value, "texts[" + std::to_string(index) + "]"));
  }

  const std::int64_t max_texts_;
  std::vector<std::string> texts_;
};

class SearchReader final : public RequestReader {
 public:
  SearchReader() : RequestReader({"query", "top_k"}) {}

  SearchRequest take(std::string_view body) {
    read(body);
    if (!seen("query")) throw ApiError(422, "'query' is missing, expected a string");
    return std::move(request_);
  }

 private:
  void on_field(JsonValue& value) override {
    if (path()[0].key == "query") {
      request_.query = take_text(value, "query");
    } else if (value.kind == JsonValue::Kind::kNatural && value.natural >= 1 && value.natural <= kMaxTopK) {
      request_.top_k = static_cast<std::int64_t>(value.natural);
    } else {
      fault("'top_k' must be an integer in 1.." + std::to_string(kMaxTopK) + ", " + value.is());
    }
  }

  SearchRequest request_;
};

void append_floats(std::span<const float> values, std::string& out) {
  char text[32];
  out += '[';
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (i > 0) out += ',';
    out.append(text, std::to_chars(text, text + sizeof text, values[i]).ptr);
  }
  out += ']';
}

}  // namespace

std::vector<std::string> parse_texts(std::string_view body, std::int64_t max_texts) {
  return TextsReader(max_texts).take(body);
}

SearchRequest parse_search(std::string_view body) {
  return SearchReader().take(body);
}

std::string embed_answer(std::span<const float> vectors, std::int64_t width,
                         std::span<const std::int64_t> tokens) {
  std::string out = "{\"embeddings\":[";
  out.reserve(vectors.size() * 14);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0) out += ',';
    append_floats(vectors.subspan(i * static_cast<std::size_t>(width), static_cast<std::size_t>(width)), out);
  }
  out += "],\"dim\":" + std::to_string(width) + ",\"tokens\":[";
  for (std::size_t i = 0; i < tokens.size(); ++i) out.append(i ? "," : "").append(std::to_string(tokens[i]));
  out += "]}";
  return out;
}

std::string index_answer(std::int64_t added, std::int64_t size) {
  return Json{{"added", added}, {"size", size}}.dump();
}

std::string search_answer(const std::vector<SearchIndex::Hit>& hits) {
  Json results = Json::array();
  for (const SearchIndex::Hit& hit : hits) {
    results.push_back({{"id", hit.id}, {"text", hit.text}, {"score", hit.score}});
  }
  return Json{{"results", results}}.dump();
}

std::string error_answer(const std::string& message) {
  return Json{{"error", message}}.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace inference
