// SPDX-License-Identifier: Apache-2.0
#include "model_config.h"

#include <fcntl.h>
#include <zlib.h>

#include <algorithm>
#include <cstdio>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "file_io.h"
#include "json_reader.h"

namespace inference {
namespace {

// The model's files have 1 KiB and 2 levels; a model with a thousand labels has a hundred KiB.
constexpr std::uint64_t kMaxConfigBytes = std::uint64_t{1} << 20;
constexpr std::size_t kConfigDepth = 8;

/// A JSON object's own members. Deeper levels are read and dropped.
class ConfigFile final : private JsonReader {
 public:
  explicit ConfigFile(const std::filesystem::path& path) : name_(path.string()) {
    const std::string json = read_file(path, kMaxConfigBytes);
    try {
      read(json, kConfigDepth);
    } catch (const JsonError& error) {
      throw std::runtime_error(name_ + ": " + error.what());
    }
  }

  std::int64_t positive(const char* key) const {
    const JsonValue& value = member(key, kPositive);
    if (value.kind != JsonValue::Kind::kNatural || value.natural < 1 || value.natural > (1 << 24))
      fail(key, value, kPositive);
    return static_cast<std::int64_t>(value.natural);
  }

  float positive_float(const char* key) const {
    const JsonValue& value = member(key, kPositiveFloat);
    double real = 0;
    if (value.kind == JsonValue::Kind::kFloat) real = value.real;
    if (value.kind == JsonValue::Kind::kNatural) real = static_cast<double>(value.natural);
    using Float = std::numeric_limits<float>;
    if (real < Float::min() || real > Float::max()) fail(key, value, kPositiveFloat);
    return static_cast<float>(real);
  }

  void require(const char* key, const char* expected) const {
    const std::string only = "this server computes only " + quote_json(expected);
    const JsonValue& value = member(key, only);
    if (value.kind != JsonValue::Kind::kString || value.text != expected) fail(key, value, only);
  }

  void require(const char* key, bool expected) const {
    const std::string only = std::string("this server computes only ") + (expected ? "true" : "false");
    const JsonValue& value = member(key, only);
    if (value.kind != JsonValue::Kind::kBool || value.boolean != expected) fail(key, value, only);
  }

 private:
  static constexpr const char* kPositive = "expected an integer in 1..2^24";
  static constexpr const char* kPositiveFloat = "expected a number above 0 that an f32 holds";

  void on_value(JsonValue value) override {
    if (path().empty() && value.kind != JsonValue::Kind::kObject)
      throw std::runtime_error(name_ + ": must be a JSON object, " + value.is());
    if (path().size() != 1) return;
    const std::string& key = path()[0].key;
    if (!members_.emplace(key, std::move(value)).second)
      throw std::runtime_error(name_ + ": " + quote_json(key) + " is given twice");
  }

  const JsonValue& member(const char* key, const std::string& expectation) const {
    const auto found = members_.find(key);
    if (found == members_.end())
      throw std::runtime_error(name_ + ": '" + key + "' is missing, " + expectation);
    return found->second;
  }
  [[noreturn]] void fail(const char* key, const JsonValue& value, const std::string& expectation) const {
    throw std::runtime_error(name_ + ": '" + key + "' " + value.is() + ", " + expectation);
  }

  const std::string name_;
  std::map<std::string, JsonValue> members_;
};

}  // namespace

ModelConfig ModelConfig::load(const std::filesystem::path& directory) {
  const ConfigFile bert(directory / "config.json");
  bert.require("model_type", "bert");
  bert.require("hidden_act", "gelu");
  bert.require("position_embedding_type", "absolute");
  ModelConfig config;
  config.hidden = bert.positive("hidden_size");
  config.intermediate = bert.positive("intermediate_size");
  config.heads = bert.positive("num_attention_heads");
  config.layers = bert.positive("num_hidden_layers");
  config.vocab = bert.positive("vocab_size");
  config.max_positions = bert.positive("max_position_embeddings");
  config.type_vocab = bert.positive("type_vocab_size");
  config.layer_norm_eps = bert.positive_float("layer_norm_eps");
  if (config.hidden % config.heads != 0) {
    throw std::runtime_error((directory / "config.json").string() + ": 'hidden_size' " +
                             std::to_string(config.hidden) + " is not a multiple of 'num_attention_heads' " +
                             std::to_string(config.heads));
  }
  const ConfigFile sentence(directory / "sentence_bert_config.json");
  config.max_tokens = std::min(sentence.positive("max_seq_length"), config.max_positions);

  const ConfigFile pooling(directory / "1_Pooling" / "config.json");
  pooling.require("pooling_mode_mean_tokens", true);
  pooling.require("pooling_mode_cls_token", false);
  pooling.require("pooling_mode_max_tokens", false);
  return config;
}

std::string model_fingerprint(const std::filesystem::path& directory) {
  std::uint64_t total = 0;
  uLong crc = crc32_z(0, nullptr, 0);
  std::vector<unsigned char> piece(1 << 20);
  for (const char* name : {"model.safetensors", "vocab.txt", "config.json", "sentence_bert_config.json",
                           "1_Pooling/config.json"}) {
    const File file(directory / name, O_RDONLY);
    const std::uint64_t size = file.size();
    crc = crc32_z(crc, reinterpret_cast<const unsigned char*>(&size), sizeof size);
    for (std::uint64_t at = 0; at < size; at += piece.size()) {
      const std::uint64_t bytes = std::min<std::uint64_t>(piece.size(), size - at);
      file.read(piece.data(), bytes, at);
      crc = crc32_z(crc, piece.data(), bytes);
    }
    total += size;
  }
  char text[9];
  std::snprintf(text, sizeof text, "%08lx", static_cast<unsigned long>(crc));
  return std::string("crc32 ") + text + " of " + std::to_string(total) + " bytes";
}

}  // namespace inference
