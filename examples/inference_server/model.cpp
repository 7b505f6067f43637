#include "model.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>
#include <utility>

#include "attention_layer.h"
#include "batch_layout.h"
#include "elementwise.h"
#include "linear.h"

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

}  // namespace

Model::Model(const std::filesystem::path& directory, kumiko::Context context)
    : config_(ModelConfig::load(directory)),
      file_(directory / "model.safetensors"),
      context_(std::move(context)) {
  const std::int64_t hidden = config_.hidden;
  word_table_ = tensor("embeddings.word_embeddings.weight", {config_.vocab, hidden});
  position_table_ = tensor("embeddings.position_embeddings.weight", {config_.max_positions, hidden});
  type_table_ = tensor("embeddings.token_type_embeddings.weight", {config_.type_vocab, hidden});
  embedding_norm_ = norm("embeddings.LayerNorm");
  for (std::int64_t i = 0; i < config_.layers; ++i) layers_.push_back(load_layer(i));
}

const float* Model::tensor(const std::string& name, const std::vector<std::int64_t>& shape) const {
  return file_.f32(name, shape).data();
}

Model::Norm Model::norm(const std::string& name) const {
  return {tensor(name + ".weight", {config_.hidden}), tensor(name + ".bias", {config_.hidden})};
}

Model::Layer Model::load_layer(std::int64_t index) const {
  const std::string prefix = "encoder.layer." + std::to_string(index) + ".";
  const std::int64_t hidden = config_.hidden;
  const std::int64_t wide = config_.intermediate;
  Layer layer{};
  for (const char* part : {"query", "key", "value"}) {
    const std::string name = prefix + "attention.self." + part;
    const float* weight = tensor(name + ".weight", {hidden, hidden});
    const float* bias = tensor(name + ".bias", {hidden});
    layer.qkv_weight.insert(layer.qkv_weight.end(), weight, weight + hidden * hidden);
    layer.qkv_bias.insert(layer.qkv_bias.end(), bias, bias + hidden);
  }
  layer.out_weight = tensor(prefix + "attention.output.dense.weight", {hidden, hidden});
  layer.out_bias = tensor(prefix + "attention.output.dense.bias", {hidden});
  layer.attention_norm = norm(prefix + "attention.output.LayerNorm");
  layer.up_weight = tensor(prefix + "intermediate.dense.weight", {wide, hidden});
  layer.up_bias = tensor(prefix + "intermediate.dense.bias", {wide});
  layer.down_weight = tensor(prefix + "output.dense.weight", {hidden, wide});
  layer.down_bias = tensor(prefix + "output.dense.bias", {hidden});
  layer.output_norm = norm(prefix + "output.LayerNorm");
  return layer;
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
    float* row = rows + static_cast<std::int64_t>(i) * hidden;
    add_bias(hidden, word_table_ + ids[i] * hidden, position_table_ + static_cast<std::int64_t>(i) * hidden,
             row);
    add_bias(hidden, row, type_table_, row);  // one text: every token is of type 0
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
  const std::int64_t rows = round_up_rows(layout.tokens);
  float* hidden = grown(work.hidden, rows * width);
  float* packed = grown(work.packed, rows * 3 * width);
  float* context = grown(work.context, rows * width);
  float* wide = grown(work.intermediate, rows * config_.intermediate);
  float* padded_qkv = grown(work.padded_qkv, layout.padded_rows * 3 * width);
  float* padded_out = grown(work.padded_out, layout.padded_rows * width);
  // The rows that fill up the last tile are multiplied like the others: they must hold numbers, not what a
  // past batch left.
  std::fill(hidden + layout.tokens * width, hidden + rows * width, 0.0f);
  std::fill(context + layout.tokens * width, context + rows * width, 0.0f);

  const auto timed_linear = [&](std::int64_t in, std::int64_t out, const float* x, const float* weight,
                                float* y) {
    const Stopwatch watch;
    linear(rows, in, out, x, weight, y);
    stats.linear_seconds += watch.seconds();
  };

  for (const BatchLayout::Sequence& sequence : layout.sequences) {
    embed_tokens(texts[static_cast<std::size_t>(sequence.text)], hidden + sequence.packed_row * width);
  }
  add_layer_norm(layout.tokens, width, hidden, nullptr, nullptr, embedding_norm_.gain, embedding_norm_.shift,
                 config_.layer_norm_eps);
  for (const Layer& layer : layers_) {
    timed_linear(width, 3 * width, hidden, layer.qkv_weight.data(), packed);
    for (const BatchLayout::Sequence& sequence :
         layout.sequences) {  // the bias has to be added anyway: do it on the way
      for (std::int64_t i = 0; i < sequence.length; ++i) {
        add_bias(3 * width, packed + (sequence.packed_row + i) * 3 * width, layer.qkv_bias.data(),
                 padded_qkv + (sequence.padded_row + i) * 3 * width);
      }
    }
    const Stopwatch watch;
    attention.run(padded_qkv, padded_out);
    stats.attention_seconds += watch.seconds();
    for (const BatchLayout::Sequence& sequence : layout.sequences) {
      std::copy_n(padded_out + sequence.padded_row * width, sequence.length * width,
                  context + sequence.packed_row * width);
    }
    timed_linear(width, width, context, layer.out_weight, packed);
    add_layer_norm(rows, width, hidden, packed, layer.out_bias, layer.attention_norm.gain,
                   layer.attention_norm.shift, config_.layer_norm_eps);
    timed_linear(width, config_.intermediate, hidden, layer.up_weight, wide);
    add_gelu(rows, config_.intermediate, wide, layer.up_bias);
    timed_linear(config_.intermediate, width, wide, layer.down_weight, packed);
    add_layer_norm(rows, width, hidden, packed, layer.down_bias, layer.output_norm.gain,
                   layer.output_norm.shift, config_.layer_norm_eps);
  }
  for (const BatchLayout::Sequence& sequence : layout.sequences) {
    mean_pool_normalize(sequence.length, width, hidden + sequence.packed_row * width,
                        vectors.data() + sequence.text * width);
  }
  stats.total_seconds = total.seconds();
  return stats;
}

}  // namespace inference
