// SPDX-License-Identifier: Apache-2.0
#include "attention_layer.h"

#include <stdexcept>
#include <string>

namespace inference {
namespace {

void check(const kumiko::Status& status, const char* what) {
  if (!status.ok())
    throw std::runtime_error(std::string("attention ") + what + ": " + std::string(status.message()));
}

}  // namespace

AttentionLayer::AttentionLayer(const kumiko::Context& context, const ModelConfig& config,
                               const BatchLayout& layout)
    : hidden_(config.hidden) {
  for (const BatchLayout::Group& group : layout.groups) {
    Call call;
    const auto batch = static_cast<std::int64_t>(group.lengths.size());
    const std::int64_t dim = config.head_dim();
    const std::int64_t row = 3 * config.hidden;
    // Views [batch, heads, seq, head_dim] in rows of [q | k | v]: no copy, only strides.
    kumiko::ConstTensor view;
    view.shape = {batch, config.heads, group.q_len, dim};
    view.stride = {group.q_len * row, dim, row, 1};
    call.args.q = call.args.k = call.args.v = view;
    call.args.out = kumiko::Tensor::bshd(nullptr, batch, group.q_len, config.heads, dim);
    call.args.seqused_k = group.lengths.data();
    call.padded_row = group.padded_row;
    check(kumiko::plan(context, call.args, &call.plan), "plan");
    calls_.push_back(std::move(call));
  }
}

void AttentionLayer::run(const float* qkv, float* out) {
  for (Call& call : calls_) {
    const float* first = qkv + call.padded_row * 3 * hidden_;
    call.args.q.data = first;
    call.args.k.data = first + hidden_;
    call.args.v.data = first + 2 * hidden_;
    call.args.out.data = out + call.padded_row * hidden_;
    check(call.plan.run(call.args), "run");
  }
}

}  // namespace inference
