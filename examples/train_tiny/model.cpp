// SPDX-License-Identifier: Apache-2.0
#include "examples/train_tiny/model.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace train_tiny {
namespace {

void expect(const kumiko::Status& status) {
  if (!status.ok()) throw std::runtime_error(status.message());
}

std::size_t sz(std::int64_t n) {
  return static_cast<std::size_t>(n);
}

}  // namespace

Model::Model(const Size& size, std::uint64_t seed, const kumiko::Context& context)
    : size_(size), context_(context), bytes_(0), positions_(0), last_norm_(size.width), logits_([&] {
        std::mt19937_64 random(seed);
        return Linear(size.width, kBytes, 0.02f, random);
      }()) {
  std::mt19937_64 random(seed + 1);
  constexpr float kDeviation = 0.02f;
  // Sums of many layers start no larger than one (GPT-2).
  const float narrow = kDeviation / std::sqrt(2.0f * static_cast<float>(size.layers));
  const std::int64_t width = size.width;
  bytes_ = Parameter(kBytes * width, kDeviation, random);
  positions_ = Parameter(size.context * width, kDeviation, random);
  for (std::int64_t i = 0; i < size.layers; ++i)
    blocks_.push_back({.attention_norm = RmsNorm(width),
                       .mlp_norm = RmsNorm(width),
                       .qkv = Linear(width, 3 * width, kDeviation, random),
                       .out = Linear(width, width, narrow, random),
                       .up = Linear(width, 4 * width, kDeviation, random),
                       .down = Linear(4 * width, width, narrow, random),
                       .x = {},
                       .normed = {},
                       .projected = {},
                       .attended = {},
                       .lse = {},
                       .middle = {},
                       .middle_normed = {},
                       .raised = {},
                       .active = {}});
  parameters_ = {&bytes_, &positions_, &last_norm_.gain, &logits_.weight};
  for (Block& block : blocks_)
    parameters_.insert(parameters_.end(),
                       {&block.attention_norm.gain, &block.mlp_norm.gain, &block.qkv.weight,
                        &block.out.weight, &block.up.weight, &block.down.weight});
}

void Model::resize(std::int64_t rows) {
  if (rows == rows_) return;
  rows_ = rows;
  const std::int64_t narrow = rows * size_.width;
  for (Block& block : blocks_) {
    for (Floats* x : {&block.x, &block.normed, &block.attended, &block.middle, &block.middle_normed})
      x->resize(sz(narrow));
    block.projected.resize(sz(3 * narrow));
    block.lse.resize(sz(rows * size_.heads));
    block.raised.resize(sz(4 * narrow));
    block.active.resize(sz(4 * narrow));
  }
  for (Floats* x : {&last_, &last_normed_, &narrow_, &dnarrow_, &dattended_}) x->resize(sz(narrow));
  dprojected_.resize(sz(3 * narrow));
  dwide_.resize(sz(4 * narrow));
  dactive_.resize(sz(4 * narrow));
  scores_.resize(sz(rows * kBytes));
  dlogits_.resize(sz(rows * kBytes));
}

/// Queries, keys and values lie side by side in each row of `projected`: views by strides, no copies.
kumiko::AttentionArgs Model::attention(Block& block) const {
  const std::int64_t batch = rows_ / size_.context, dim = size_.width / size_.heads, row = 3 * size_.width;
  const auto view = [&](std::int64_t first) {
    return kumiko::ConstTensor{&block.projected[sz(first)],
                               {batch, size_.heads, size_.context, dim},
                               {size_.context * row, dim, row, 1}};
  };
  return {.q = view(0),
          .k = view(size_.width),
          .v = view(2 * size_.width),
          .out = kumiko::Tensor::bshd(block.attended.data(), batch, size_.context, size_.heads, dim),
          .lse = {block.lse.data(), {}},
          .is_causal = true};
}

void Model::forward(Block& block, Floats* x) {
  block.x = *x;
  block.attention_norm.forward(*x, rows_, &block.normed);
  block.qkv.forward(block.normed, rows_, &block.projected);
  expect(kumiko::attention_forward(context_, attention(block)));
  block.out.forward(block.attended, rows_, &narrow_);
  add(narrow_, x);
  block.middle = *x;
  block.mlp_norm.forward(*x, rows_, &block.middle_normed);
  block.up.forward(block.middle_normed, rows_, &block.raised);
  silu(block.raised, &block.active);
  block.down.forward(block.active, rows_, &narrow_);
  add(narrow_, x);
}

double Model::forward(const Batch& batch) {
  resize(std::ssize(batch.inputs));
  const std::int64_t width = size_.width;
  for (std::int64_t row = 0; row < rows_; ++row) {
    const float* byte = &bytes_.value[sz(batch.inputs[sz(row)] * width)];
    const float* position = &positions_.value[sz(row % size_.context * width)];
    for (std::int64_t i = 0; i < width; ++i) last_[sz(row * width + i)] = byte[i] + position[i];
  }
  for (Block& block : blocks_) forward(block, &last_);
  last_norm_.forward(last_, rows_, &last_normed_);
  logits_.forward(last_normed_, rows_, &scores_);
  return cross_entropy(scores_, batch.targets, kBytes, &dlogits_);
}

void Model::backward(Block& block, Floats* dx) {
  block.down.backward(block.active, *dx, rows_, &dactive_);
  silu_backward(block.raised, dactive_, &dwide_);
  block.up.backward(block.middle_normed, dwide_, rows_, &narrow_);
  block.mlp_norm.backward(block.middle, narrow_, rows_, dx);
  block.out.backward(block.attended, *dx, rows_, &dattended_);
  kumiko::BackwardArgs args;
  args.forward = attention(block);
  const auto gradient = [&](std::int64_t first, const kumiko::ConstTensor& like) {
    return kumiko::Tensor{&dprojected_[sz(first)], like.shape, like.stride};
  };
  const auto& out = args.forward.out;
  args.dout = {dattended_.data(), out.shape, out.stride};
  args.dq = gradient(0, args.forward.q);
  args.dk = gradient(size_.width, args.forward.k);
  args.dv = gradient(2 * size_.width, args.forward.v);
  expect(kumiko::attention_backward(context_, args));
  block.qkv.backward(block.normed, dprojected_, rows_, &narrow_);
  block.attention_norm.backward(block.x, narrow_, rows_, dx);
}

void Model::backward(const Batch& batch) {
  logits_.backward(last_normed_, dlogits_, rows_, &narrow_);
  std::fill(dnarrow_.begin(), dnarrow_.end(), 0.0f);
  last_norm_.backward(last_, narrow_, rows_, &dnarrow_);
  for (std::size_t i = blocks_.size(); i-- > 0;) backward(blocks_[i], &dnarrow_);
  for (Parameter* parameter : {&bytes_, &positions_})
    std::fill(parameter->gradient.begin(), parameter->gradient.end(), 0.0f);
  const std::int64_t width = size_.width;
  for (std::int64_t row = 0; row < rows_; ++row) {
    float* byte = &bytes_.gradient[sz(batch.inputs[sz(row)] * width)];
    float* position = &positions_.gradient[sz(row % size_.context * width)];
    for (std::int64_t i = 0; i < width; ++i) {
      byte[i] += dnarrow_[sz(row * width + i)];
      position[i] += dnarrow_[sz(row * width + i)];
    }
  }
}

}  // namespace train_tiny
