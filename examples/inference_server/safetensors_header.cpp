// SPDX-License-Identifier: Apache-2.0
#include "safetensors_header.h"

#include <array>
#include <stdexcept>
#include <utility>

#include "json_reader.h"

namespace inference {
namespace {

// {name: {"shape": [1]}} needs 3; "__metadata__" is a map of strings.
constexpr std::size_t kHeaderDepth = 4;
// Twice what tensor libraries support.
constexpr std::size_t kMaxDimensions = 16;
// Messages quote names in full.
constexpr std::size_t kMaxNameBytes = 1024;
constexpr std::string_view kMetadata = "__metadata__";

constexpr std::array<std::pair<std::string_view, std::uint64_t>, 13> kElementSize{{{"BOOL", 1},
                                                                                   {"U8", 1},
                                                                                   {"I8", 1},
                                                                                   {"F8_E4M3", 1},
                                                                                   {"F8_E5M2", 1},
                                                                                   {"I16", 2},
                                                                                   {"U16", 2},
                                                                                   {"F16", 2},
                                                                                   {"BF16", 2},
                                                                                   {"I32", 4},
                                                                                   {"F32", 4},
                                                                                   {"I64", 8},
                                                                                   {"F64", 8}}};

std::string cut(const std::string& text) {
  return text.size() > 200 ? text.substr(0, 200) + "..." : text;
}

class HeaderReader final : public JsonReader {
 public:
  explicit HeaderReader(std::string file) : file_(std::move(file)) {}

  std::map<std::string, TensorEntry> take(std::string_view json) {
    try {
      read(json, kHeaderDepth);
    } catch (const JsonError& error) {
      throw std::runtime_error(file_ + ": header " + error.what());
    }
    return std::move(tensors_);
  }

 private:
  void on_key() override {
    if (path().size() != 2 || in_metadata()) return;
    const std::string& member = path()[1].key;
    for (const auto& [name, seen] :
         {std::pair{"dtype", &seen_dtype_}, {"shape", &seen_shape_}, {"data_offsets", &seen_offsets_}}) {
      if (member == name && std::exchange(*seen, true)) fail(std::string("has '") + name + "' twice");
    }
  }
  void on_value(JsonValue value) override {
    if (path().empty()) {
      if (value.kind != JsonValue::Kind::kObject)
        throw std::runtime_error(file_ + ": header must be a JSON object, " + value.is());
    } else if (in_metadata()) {
      return;
    } else if (path().size() == 1) {
      begin_tensor(value);
    } else if (path().size() == 2) {
      member(value);
    } else if (path().size() == 3) {
      element(value);
    }
  }
  void on_end() override {
    if (path().size() == 1 && !in_metadata()) end_tensor();
  }

  bool in_metadata() const { return path()[0].key == kMetadata; }

  void begin_tensor(const JsonValue& value) {
    if (value.kind != JsonValue::Kind::kObject) fail("must be an object, " + value.is());
    if (path()[0].key.size() > kMaxNameBytes)
      fail("has a name of " + std::to_string(path()[0].key.size()) + " bytes, at most " +
           std::to_string(kMaxNameBytes) + " are taken");
    if (tensors_.contains(path()[0].key)) fail("is named twice");
    entry_ = {};
    offsets_ = 0;
    seen_dtype_ = seen_shape_ = seen_offsets_ = false;
  }
  void member(JsonValue& value) {
    const std::string& name = path()[1].key;
    if (name == "dtype") {
      if (value.kind != JsonValue::Kind::kString) fail("dtype must be a string, " + value.is());
      entry_.dtype = std::move(value.text);
    } else if (name == "shape") {
      if (value.kind != JsonValue::Kind::kArray) fail("shape must be an array, " + value.is());
    } else if (name == "data_offsets") {
      if (value.kind != JsonValue::Kind::kArray) fail("data_offsets must be [begin, end], " + value.is());
    }
  }
  void element(const JsonValue& value) {
    if (path()[1].key == "shape") {
      if (entry_.shape.size() == kMaxDimensions)
        fail("shape has more than " + std::to_string(kMaxDimensions) + " dimensions");
      const std::uint64_t extent = natural(value, "every extent of shape");
      if (extent > static_cast<std::uint64_t>(INT64_MAX)) fail("shape overflows 64 bits");
      entry_.shape.push_back(static_cast<std::int64_t>(extent));
    } else if (path()[1].key == "data_offsets") {
      if (offsets_ == 2) fail("data_offsets must be [begin, end], is longer");
      (offsets_ == 0 ? entry_.begin : entry_.end) =
          natural(value, offsets_ == 0 ? "data_offsets[0]" : "data_offsets[1]");
      ++offsets_;
    }
  }
  void end_tensor() {
    if (!seen_dtype_) fail("has no 'dtype'");
    if (!seen_shape_) fail("has no 'shape'");
    if (!seen_offsets_) fail("has no 'data_offsets'");
    if (offsets_ != 2)
      fail("data_offsets must be [begin, end], has " + std::to_string(offsets_) + " numbers");
    const std::uint64_t bytes = byte_count();
    if (entry_.end < entry_.begin || entry_.end - entry_.begin != bytes) {
      fail("data_offsets [" + std::to_string(entry_.begin) + ", " + std::to_string(entry_.end) +
           "] do not hold " + entry_.dtype + " " + show_shape(entry_.shape) + " (" + std::to_string(bytes) +
           " bytes)");
    }
    tensors_.emplace(path()[0].key, std::move(entry_));
  }

  std::uint64_t byte_count() const {
    std::uint64_t bytes = 0;
    for (const auto& [name, size] : kElementSize) {
      if (name == entry_.dtype) bytes = size;
    }
    if (bytes == 0) fail("dtype '" + cut(entry_.dtype) + "' is not known");
    for (std::int64_t extent : entry_.shape) {
      if (__builtin_mul_overflow(bytes, static_cast<std::uint64_t>(extent), &bytes))
        fail("shape " + show_shape(entry_.shape) + " overflows 64 bits");
    }
    return bytes;
  }
  std::uint64_t natural(const JsonValue& value, const char* what) const {
    if (value.kind != JsonValue::Kind::kNatural)
      fail(std::string(what) + " must be a non-negative integer, " + value.is());
    return value.natural;
  }
  [[noreturn]] void fail(const std::string& message) const {
    throw std::runtime_error(file_ + ": tensor '" + cut(path()[0].key) + "': " + message);
  }

  const std::string file_;
  std::map<std::string, TensorEntry> tensors_;
  TensorEntry entry_;
  int offsets_ = 0;
  bool seen_dtype_ = false, seen_shape_ = false, seen_offsets_ = false;
};

}  // namespace

std::map<std::string, TensorEntry> parse_safetensors_header(std::string_view json, const std::string& file) {
  return HeaderReader(file).take(json);
}

std::string show_shape(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

}  // namespace inference
