// SPDX-License-Identifier: Apache-2.0
#include "model.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>
#include <utility>

#include "attention_layer.h"
#include "batch_layout.h"
#include "elementwise.h"

namespace inference {
namespace {

class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

float* grown(std::vector<float>& buffer, std::int64_t size) {
  if (buffer.size() < static_cast<std::size_t>(size)) buffer.resize(static_cast<std::size_t>(size));
  return buffer.data();
}

std::vector<float> copy(std::span<const float> values) {
  return {values.begin(), values.end()};
}

}  // namespace

Model::Model(const std::filesystem::path& directory, kumiko::Context context)
    : config_(ModelConfig::load(directory)),
      context_(std::move(context)),
      qkv_(config_.hidden, 3 * config_.hidden, Epilogue::kNone, config_.layers),
      attention_out_(config_.hidden, config_.hidden, Epilogue::kAdd, config_.layers),
      up_(config_.hidden, config_.intermediate, Epilogue::kGelu, config_.layers),
      down_(config_.intermediate, config_.hidden, Epilogue::kAdd, config_.layers) {
  const SafeTensors file(directory / "model.safetensors");
  const std::int64_t hidden = config_.hidden;
  word_table_ = copy(file.f32("embeddings.word_embeddings.weight", {config_.vocab, hidden}));
  position_table_ = copy(file.f32("embeddings.position_embeddings.weight", {config_.max_positions, hidden}));
  type_table_ = copy(file.f32("embeddings.token_type_embeddings.weight", {config_.type_vocab, hidden}));
  embedding_norm_ = load_norm(file, "embeddings.LayerNorm");
  for (std::int64_t i = 0; i < config_.layers; ++i) load_layer(file, i);
}

Model::Norm Model::load_norm(const SafeTensors& file, const std::string& name) const {
  return {copy(file.f32(name + ".weight", {config_.hidden})),
          copy(file.f32(name + ".bias", {config_.hidden}))};
}

void Model::load_layer(const SafeTensors& file, std::int64_t index) {
  const std::string prefix = "encoder.layer." + std::to_string(index) + ".";
  const std::int64_t hidden = config_.hidden;
  const std::int64_t wide = config_.intermediate;
  const auto dense = [&](const std::string& name, std::int64_t in, std::int64_t out, LinearLayers& layers) {
    const std::span<const float> weight = file.f32(prefix + name + ".dense.weight", {out, in});
    const std::span<const float> bias = file.f32(prefix + name + ".dense.bias", {out});
    layers.add(weight.data(), bias.data());
  };
  std::vector<float> weight, bias;
  for (const char* part : {"query", "key", "value"}) {
    const std::string name = prefix + "attention.self." + part;
    const std::span<const float> w = file.f32(name + ".weight", {hidden, hidden});
    const std::span<const float> b = file.f32(name + ".bias", {hidden});
    weight.insert(weight.end(), w.begin(), w.end());
    bias.insert(bias.end(), b.begin(), b.end());
  }
  qkv_.add(weight.data(), bias.data());
  dense("attention.output", hidden, hidden, attention_out_);
  dense("intermediate", hidden, wide, up_);
  dense("output", wide, hidden, down_);
  norms_.push_back(
      {load_norm(file, prefix + "attention.output.LayerNorm"), load_norm(file, prefix + "output.LayerNorm")});
}

void Model::check_ids(std::span<const std::vector<std::int32_t>> texts) const {
  for (const std::vector<std::int32_t>& ids : texts) {
    if (ids.empty() || std::ssize(ids) > config_.max_tokens) {
      throw std::invalid_argument("a text has " + std::to_string(ids.size()) + " tokens, expected 1.." +
                                  std::to_string(config_.max_tokens));
    }
    for (std::int32_t id : ids) {
      if (id < 0 || id >= config_.vocab) {
        throw std::invalid_argument("token id " + std::to_string(id) + " is outside 0.." +
                                    std::to_string(config_.vocab - 1));
      }
    }
  }
}

void Model::embed_tokens(std::span<const std::int32_t> ids, float* rows) const {
  const std::int64_t hidden = config_.hidden;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::int64_t at = static_cast<std::int64_t>(i) * hidden;
    add_three(hidden, word_table_.data() + ids[i] * hidden, position_table_.data() + at,
              type_table_.data(),  // one text: every token is of type 0
              rows + at);
  }
}

ForwardStats Model::forward(std::span<const std::vector<std::int32_t>> texts, Workspace& work,
                            std::span<float> vectors) const {
  check_ids(texts);
  const Stopwatch total;
  ForwardStats stats;
  std::vector<std::int64_t> lengths;
  for (const std::vector<std::int32_t>& ids : texts) lengths.push_back(std::ssize(ids));
  const BatchLayout layout = BatchLayout::make(lengths);
  AttentionLayer attention(context_, config_, layout);
  stats.tokens = layout.tokens;
  stats.query_rows = layout.padded_rows;
  stats.attention_seconds += total.seconds();  // planning

  const std::int64_t width = config_.hidden;
  const std::int64_t rows = layout.tokens;
  float* hidden = grown(work.hidden, rows * width);
  float* qkv = grown(work.qkv, rows * 3 * width);
  float* context = grown(work.context, rows * width);
  float* wide = grown(work.intermediate, std::min(rows, LinearLayers::kMaxRows) * config_.intermediate);
  // If no group fills up rows the two layouts are equal, and nothing is copied.
  const bool padded = layout.padded_rows != layout.tokens;
  float* padded_qkv = padded ? grown(work.padded_qkv, layout.padded_rows * 3 * width) : qkv;
  float* padded_context = padded ? grown(work.padded_context, layout.padded_rows * width) : context;

  const auto linear = [&](const LinearLayers& layers, std::size_t index, std::int64_t count, const float* x,
                          float* y) {
    const Stopwatch watch;
    layers.run(index, count, x, y);
    stats.linear_seconds += watch.seconds();
  };
  const auto normalize = [&](const Norm& norm, std::int64_t count, float* x) {
    layer_norm(count, width, x, norm.gain.data(), norm.shift.data(), config_.layer_norm_eps);
  };

  for (const BatchLayout::Sequence& sequence : layout.sequences) {
    embed_tokens(texts[static_cast<std::size_t>(sequence.text)], hidden + sequence.packed_row * width);
  }
  normalize(embedding_norm_, rows, hidden);
  for (std::size_t i = 0; i < norms_.size(); ++i) {
    linear(qkv_, i, rows, hidden, qkv);
    if (padded) {
      for (const BatchLayout::Sequence& sequence : layout.sequences) {
        std::copy_n(qkv + sequence.packed_row * 3 * width, sequence.length * 3 * width,
                    padded_qkv + sequence.padded_row * 3 * width);
      }
    }
    const Stopwatch watch;
    attention.run(padded_qkv, padded_context);
    stats.attention_seconds += watch.seconds();
    if (padded) {
      for (const BatchLayout::Sequence& sequence : layout.sequences) {
        std::copy_n(padded_context + sequence.padded_row * width, sequence.length * width,
                    context + sequence.packed_row * width);
      }
    }
    // The rest of the layer in parts: the widest buffer then has kMaxRows rows, 0.3 MB, for any batch size.
    LinearLayers::for_each_part(rows, [&](std::int64_t first, std::int64_t count) {
      float* x = hidden + first * width;
      linear(attention_out_, i, count, context + first * width, x);
      normalize(norms_[i].attention, count, x);
      linear(up_, i, count, x, wide);
      linear(down_, i, count, wide, x);
      normalize(norms_[i].output, count, x);
    });
  }
  for (const BatchLayout::Sequence& sequence : layout.sequences) {
    mean_pool_normalize(sequence.length, width, hidden + sequence.packed_row * width,
                        vectors.data() + sequence.text * width);
  }
  stats.total_seconds = total.seconds();
  return stats;
}

}  // namespace inference
