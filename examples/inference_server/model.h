// SPDX-License-Identifier: Apache-2.0
// A BERT sentence encoder (all-MiniLM-L6-v2): token ids to unit vectors, f32.
// Reimers & Gurevych, "Sentence-BERT", 2019; Wang et al., "MiniLM", 2020.
#pragma once

#include <kumiko/attention.h>

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "linear.h"
#include "model_config.h"
#include "safetensors.h"

namespace inference {

/// The work of one forward(), for the metrics. Seconds are wall time of the calling thread.
struct ForwardStats {
  double total_seconds = 0;
  double attention_seconds = 0;
  double linear_seconds = 0;
  std::int64_t tokens = 0;
  std::int64_t query_rows = 0;  ///< rows given to attention: tokens plus padding of lanes inside a group
};

/// Buffers of one worker thread. They grow to the size of the largest batch and stay.
struct Workspace {
  std::vector<float> hidden, qkv, context, padded_qkv, padded_context, intermediate;
};

class Model {
 public:
  /// Reads `directory`/model.safetensors and packs the weights. The file is not used afterwards. Throws
  /// std::runtime_error naming file and tensor or key.
  Model(const std::filesystem::path& directory, kumiko::Context context);

  const ModelConfig& config() const { return config_; }

  /// Name of the kernels of the linear layers: "brgconv_1x1:avx512_core", "jit_1x1:avx2", ...
  const std::string& linear_kernels() const { return up_.kernels(); }

  /// vectors[i, :] = unit vector of texts[i]; vectors is [texts.size(), hidden]. Every text has 1..max_tokens
  /// ids. Any number of threads may call at once, each with its own workspace. Throws std::invalid_argument
  /// (ids) or std::runtime_error.
  ForwardStats forward(std::span<const std::vector<std::int32_t>> texts, Workspace& work,
                       std::span<float> vectors) const;

 private:
  struct Norm {
    std::vector<float> gain, shift;
  };
  struct Norms {
    Norm attention, output;
  };
  Norm load_norm(const SafeTensors& file, const std::string& name) const;
  void load_layer(const SafeTensors& file, std::int64_t index);
  void check_ids(std::span<const std::vector<std::int32_t>> texts) const;
  void embed_tokens(std::span<const std::int32_t> ids, float* rows) const;

  ModelConfig config_;
  kumiko::Context context_;
  std::vector<float> word_table_, position_table_, type_table_;
  Norm embedding_norm_;
  // Every layer's products; q, k and v are one.
  LinearLayers qkv_, attention_out_, up_, down_;
  std::vector<Norms> norms_;
};

}  // namespace inference
