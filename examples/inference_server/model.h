// A BERT sentence encoder (all-MiniLM-L6-v2): token ids to unit vectors, f32.
// Reimers & Gurevych, "Sentence-BERT", 2019; Wang et al., "MiniLM", 2020.
#pragma once

#include <kumiko/attention.h>

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "model_config.h"
#include "safetensors.h"

namespace inference {

/// What one forward() did, for the metrics. Seconds are wall time of the calling thread.
struct ForwardStats {
  double total_seconds = 0;
  double attention_seconds = 0;
  double linear_seconds = 0;
  std::int64_t tokens = 0;
  std::int64_t query_rows = 0;  ///< rows attention was asked for: tokens plus lanes filled up inside a group
};

/// Buffers of one worker thread. They grow to the largest batch seen and stay.
struct Workspace {
  std::vector<float> hidden, packed, context, padded_qkv, padded_out, intermediate;
};

class Model {
 public:
  /// Maps `directory`/model.safetensors. Throws std::runtime_error naming file and tensor or key.
  Model(const std::filesystem::path& directory, kumiko::Context context);

  const ModelConfig& config() const { return config_; }

  /// vectors[i, :] = unit vector of texts[i]; vectors is [texts.size(), hidden]. Every text has 1..max_tokens
  /// ids. Any number of threads may call at once, each with its own workspace. Throws std::invalid_argument
  /// (ids) or std::runtime_error.
  ForwardStats forward(std::span<const std::vector<std::int32_t>> texts, Workspace& work,
                       std::span<float> vectors) const;

 private:
  struct Norm {
    const float* gain;
    const float* shift;
  };
  struct Layer {
    std::vector<float> qkv_weight,
        qkv_bias;  // [3 * hidden, hidden], [3 * hidden]: one product instead of three
    const float *out_weight, *out_bias;
    const float *up_weight, *up_bias;
    const float *down_weight, *down_bias;
    Norm attention_norm, output_norm;
  };
  const float* tensor(const std::string& name, const std::vector<std::int64_t>& shape) const;
  Norm norm(const std::string& name) const;
  Layer load_layer(std::int64_t index) const;
  void check_ids(std::span<const std::vector<std::int32_t>> texts) const;
  void embed_tokens(std::span<const std::int32_t> ids, float* rows) const;

  ModelConfig config_;
  SafeTensors file_;
  kumiko::Context context_;
  const float* word_table_ = nullptr;
  const float* position_table_ = nullptr;
  const float* type_table_ = nullptr;
  Norm embedding_norm_{};
  std::vector<Layer> layers_;
};

}  // namespace inference
