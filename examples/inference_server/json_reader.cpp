// SPDX-License-Identifier: Apache-2.0
#include "json_reader.h"

#include <nlohmann/json.hpp>
#include <utility>

namespace inference {
namespace {

using Json = nlohmann::json;

std::string cut(std::string text, std::size_t bytes) {
  if (text.size() > bytes) text = text.substr(0, bytes) + "...";
  return text;
}

}  // namespace

std::string quote_json(std::string_view text) {
  // Every byte becomes at least one: nothing after the 40th is shown, and escaping megabytes would take six
  // times as many.
  return cut(Json(text.substr(0, 48)).dump(-1, ' ', true, Json::error_handler_t::replace), 40);
}

std::string JsonValue::is() const {
  switch (kind) {
    case Kind::kNull:
      return "is null";
    case Kind::kBool:
      return boolean ? "is true" : "is false";
    case Kind::kNegative:
      return "is " + std::to_string(negative);
    case Kind::kNatural:
      return "is " + std::to_string(natural);
    case Kind::kFloat:
      return "is " + cut(text, 40);
    case Kind::kString:
      return "is " + quote_json(text);
    case Kind::kArray:
      return "is an array";
    case Kind::kObject:
      return "is an object";
  }
  return "";
}

struct JsonReader::Events : nlohmann::json_sax<Json> {
  Events(JsonReader& events_reader, std::size_t most) : reader(events_reader), max_depth(most) {}

  bool value(JsonValue value) {
    if (!reader.path_.empty() && reader.path_.back().in_array) ++reader.path_.back().index;
    reader.on_value(std::move(value));
    return true;
  }
  bool begin(JsonValue::Kind kind) {
    if (reader.path_.size() == max_depth) {
      throw JsonError("is not JSON of at most " + std::to_string(max_depth) + " nested levels");
    }
    value({.kind = kind});
    reader.path_.push_back({.key = {}, .index = -1, .in_array = kind == JsonValue::Kind::kArray});
    return true;
  }
  bool end() {
    reader.path_.pop_back();
    reader.on_end();
    return true;
  }

  bool null() override { return value({}); }
  bool boolean(bool b) override { return value({.kind = JsonValue::Kind::kBool, .boolean = b}); }
  bool number_integer(number_integer_t n) override {
    // "-0" is also handled here.
    if (n == 0) return number_unsigned(0);
    return value({.kind = JsonValue::Kind::kNegative, .negative = n});
  }
  bool number_unsigned(number_unsigned_t n) override {
    return value({.kind = JsonValue::Kind::kNatural, .natural = n});
  }
  bool number_float(number_float_t x, const string_t& written) override {
    return value({.kind = JsonValue::Kind::kFloat, .real = x, .text = written});
  }
  bool string(string_t& text) override {
    return value({.kind = JsonValue::Kind::kString, .text = std::move(text)});
  }
  bool binary(binary_t&) override { return true; }  // not in JSON
  bool start_object(std::size_t) override { return begin(JsonValue::Kind::kObject); }
  bool key(string_t& text) override {
    reader.path_.back().key = std::move(text);
    reader.on_key();
    return true;
  }
  bool end_object() override { return end(); }
  bool start_array(std::size_t) override { return begin(JsonValue::Kind::kArray); }
  bool end_array() override { return end(); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) override {
    // It begins with "[json.exception.parse_error.101] ", which helps no reader, and may quote a long string
    // in full.
    std::string_view what = error.what();
    if (const auto end = what.find("] "); end != std::string_view::npos) what.remove_prefix(end + 2);
    throw JsonError("is not JSON: " + cut(std::string(what.substr(0, 201)), 200));
  }

  JsonReader& reader;
  const std::size_t max_depth;
};

void JsonReader::read(std::string_view text, std::size_t max_depth) {
  path_.clear();
  Events events(*this, max_depth);
  Json::sax_parse(text.begin(), text.end(), static_cast<nlohmann::json_sax<Json>*>(&events));
}

}  // namespace inference
