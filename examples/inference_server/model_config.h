// SPDX-License-Identifier: Apache-2.0
// The settings in the files beside the weights.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace inference {

struct ModelConfig {
  std::int64_t hidden = 0;         ///< width of a token's vector
  std::int64_t intermediate = 0;   ///< width inside the feed-forward block
  std::int64_t heads = 0;          ///< attention heads
  std::int64_t layers = 0;         ///< encoder layers
  std::int64_t vocab = 0;          ///< word pieces
  std::int64_t max_positions = 0;  ///< rows of the position table
  std::int64_t type_vocab = 0;     ///< rows of the token type table
  std::int64_t max_tokens = 0;     ///< longest text in word pieces, [CLS] and [SEP] included
  float layer_norm_eps = 0;

  std::int64_t head_dim() const { return hidden / heads; }

  /// Reads config.json, sentence_bert_config.json and 1_Pooling/config.json in `directory`. Throws
  /// std::runtime_error naming file and key if one is missing, malformed, above 1 MiB, nested deeper than 8
  /// levels, or requires something this server does not compute.
  static ModelConfig load(const std::filesystem::path& directory);
};

/// "crc32 1234abcd of 91108523 bytes": tells one model's vectors from another's. Covers the weights, the
/// vocabulary and the files of ModelConfig::load, all of which affect a text's vector. Throws FileError.
std::string model_fingerprint(const std::filesystem::path& directory);

}  // namespace inference
