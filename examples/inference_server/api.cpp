#include "api.h"

#include <algorithm>
#include <charconv>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string_view>

namespace inference {
namespace {

using Json = nlohmann::json;

// What a client sent may be megabytes; an error quotes its beginning.
std::string quote(const Json& value) {
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > 40) text = text.substr(0, 40) + "...";
  return text;
}

Json parse_object(const std::string& body, std::initializer_list<std::string_view> fields) {
  Json json;
  try {
    json = Json::parse(body);
  } catch (const Json::exception& error) {
    // Its text begins with "[json.exception.parse_error.101] ", which tells a client nothing.
    std::string_view what = error.what();
    if (const auto end = what.find("] "); end != std::string_view::npos) what.remove_prefix(end + 2);
    throw ApiError(400, "the body is not JSON: " + std::string(what));
  }
  if (!json.is_object()) throw ApiError(422, "the body must be a JSON object, is " + quote(json));
  for (const auto& [key, value] : json.items()) {
    if (std::find(fields.begin(), fields.end(), key) != fields.end()) continue;
    std::string known;
    for (std::string_view field : fields) known.append(known.empty() ? "'" : ", '").append(field).append("'");
    throw ApiError(422, "field " + quote(key) + " is not known, expected " + known);
  }
  return json;
}

std::string text_member(const Json& value, const std::string& name) {
  if (!value.is_string()) throw ApiError(422, "'" + name + "' must be a string, is " + quote(value));
  return value.get<std::string>();
}

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

std::vector<std::string> parse_texts(const std::string& body, std::int64_t max_texts) {
  const Json json = parse_object(body, {"texts"});
  if (!json.contains("texts")) throw ApiError(422, "'texts' is missing, expected an array of strings");
  const Json& texts = json["texts"];
  if (!texts.is_array()) throw ApiError(422, "'texts' must be an array of strings, is " + quote(texts));
  if (texts.empty()) throw ApiError(422, "'texts' is empty, expected at least one string");
  if (std::ssize(texts) > max_texts) {
    throw ApiError(413, "'texts' has " + std::to_string(texts.size()) + " texts, at most " +
                            std::to_string(max_texts) + " are taken in one request");
  }
  std::vector<std::string> out;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    out.push_back(text_member(texts[i], "texts[" + std::to_string(i) + "]"));
  }
  return out;
}

SearchRequest parse_search(const std::string& body) {
  const Json json = parse_object(body, {"query", "top_k"});
  if (!json.contains("query")) throw ApiError(422, "'query' is missing, expected a string");
  SearchRequest request;
  request.query = text_member(json["query"], "query");
  if (json.contains("top_k")) {
    const Json& top_k = json["top_k"];
    // Compared unsigned first: 2^63 and above would wrap around to a negative number.
    if (!top_k.is_number_integer() || (top_k.is_number_unsigned() && top_k.get<std::uint64_t>() > kMaxTopK) ||
        top_k.get<std::int64_t>() < 1) {
      throw ApiError(422,
                     "'top_k' must be an integer in 1.." + std::to_string(kMaxTopK) + ", is " + quote(top_k));
    }
    request.top_k = top_k.get<std::int64_t>();
  }
  return request;
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
  return out + "]}";
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
