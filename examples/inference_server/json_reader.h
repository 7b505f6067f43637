// SPDX-License-Identifier: Apache-2.0
// JSON read as a sequence of values, without building a tree: memory and stack stay small for any content.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace inference {

/// The text follows the name of the document: "is not JSON: ..." or "is not JSON of at most 8 nested levels".
struct JsonError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A scalar, or the beginning of an array or object.
struct JsonValue {
  enum class Kind { kNull, kBool, kNegative, kNatural, kFloat, kString, kArray, kObject };
  Kind kind = Kind::kNull;
  bool boolean = false;
  std::int64_t negative = 0;
  std::uint64_t natural = 0;
  double real = 0;
  std::string text{};  ///< a string's UTF-8, a float as written

  /// For messages: "is 7", "is \"abc\"" cut after 40 bytes, "is an array".
  std::string is() const;
};

/// `text` as a JSON string in ASCII, cut after 40 bytes.
std::string quote_json(std::string_view text);

class JsonReader {
 public:
  /// Calls the functions below for every value of `text`, in order. Throws JsonError if `text` is not JSON or
  /// nests deeper than `max_depth` containers, and any exception of the functions.
  void read(std::string_view text, std::size_t max_depth);

 protected:
  ~JsonReader() = default;

  struct Step {
    std::string key;         ///< of an object
    std::int64_t index = 0;  ///< in an array
    bool in_array = false;
  };
  /// The path to the current value, from the outermost container: empty for the outermost value itself.
  const std::vector<Step>& path() const { return path_; }

  /// The next member of the current object is path().back().key.
  virtual void on_key() {}
  virtual void on_value(JsonValue value) = 0;
  /// The array or object at path() is complete.
  virtual void on_end() {}

 private:
  struct Events;  // called by nlohmann::json
  std::vector<Step> path_;
};

}  // namespace inference
