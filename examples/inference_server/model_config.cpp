#include "model_config.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

namespace inference {
namespace {

using Json = nlohmann::json;

class ConfigFile {
 public:
  explicit ConfigFile(const std::filesystem::path& path) : name_(path.string()) {
    std::ifstream file(path);
    if (!file) throw std::runtime_error(name_ + ": cannot be opened");
    try {
      json_ = Json::parse(file);
    } catch (const Json::exception& error) {
      throw std::runtime_error(name_ + ": is not JSON: " + error.what());
    }
    if (!json_.is_object()) throw std::runtime_error(name_ + ": must be a JSON object");
  }

  std::int64_t positive(const char* key) const {
    if (!json_.contains(key) || !json_[key].is_number_integer() || json_[key].get<std::int64_t>() < 1 ||
        json_[key].get<std::int64_t>() > (1 << 24)) {
      fail(key, "expected an integer in 1..2^24");
    }
    return json_[key].get<std::int64_t>();
  }

  float positive_float(const char* key) const {
    if (!json_.contains(key) || !json_[key].is_number() || json_[key].get<float>() <= 0) {
      fail(key, "expected a number above 0");
    }
    return json_[key].get<float>();
  }

  void require(const char* key, const Json& expected) const {
    if (!json_.contains(key) || json_[key] != expected)
      fail(key, "this server computes only " + expected.dump());
  }

 private:
  [[noreturn]] void fail(const char* key, const std::string& expectation) const {
    const std::string value = json_.contains(key) ? "is " + json_[key].dump() : "is missing";
    throw std::runtime_error(name_ + ": '" + key + "' " + value + ", " + expectation);
  }
  std::string name_;
  Json json_;
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

}  // namespace inference
