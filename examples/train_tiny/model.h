// SPDX-License-Identifier: Apache-2.0
// A causal transformer over bytes: blocks of x += attention(norm(x)) and x += mlp(norm(x)), positions
// learned. Attention and its gradients are Kumiko's.
#pragma once

#include <kumiko/attention.h>
#include <kumiko/attention_backward.h>

#include <cstdint>
#include <vector>

#include "examples/train_tiny/layers.h"

namespace train_tiny {

struct Size {
  std::int64_t layers = 3, width = 128, heads = 4, context = 128;
};

/// Bytes [batch][context] and those that follow each.
struct Batch {
  std::vector<std::uint8_t> inputs, targets;
};

class Model {
 public:
  static constexpr std::int64_t kBytes = 256;

  /// The same parameters for the same seed. `context` outlives the model.
  Model(const Size& size, std::uint64_t seed, const kumiko::Context& context);
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  /// The mean loss of a byte, in nats. Throws std::runtime_error with Kumiko's message if a call fails.
  double forward(const Batch& batch);
  /// Gradients of the last forward(), in all parameters.
  void backward(const Batch& batch);
  const std::vector<Parameter*>& parameters() const { return parameters_; }

 private:
  struct Block {
    RmsNorm attention_norm, mlp_norm;
    Linear qkv, out, up, down;
    // Of the last forward(): inputs of the layers.
    Floats x, normed, projected, attended, lse, middle, middle_normed, raised, active;
  };

  void resize(std::int64_t rows);
  kumiko::AttentionArgs attention(Block& block) const;
  void forward(Block& block, Floats* x);
  void backward(Block& block, Floats* dx);

  Size size_;
  const kumiko::Context& context_;
  std::int64_t rows_ = 0;
  Parameter bytes_, positions_;
  std::vector<Block> blocks_;
  RmsNorm last_norm_;
  Linear logits_;
  std::vector<Parameter*> parameters_;
  Floats last_, last_normed_, dlogits_, scores_, narrow_, dnarrow_, dprojected_, dattended_, dwide_, dactive_;
};

}  // namespace train_tiny
