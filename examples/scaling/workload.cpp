// SPDX-License-Identifier: Apache-2.0
#include "workload.h"

#include <algorithm>

namespace scaling {
namespace {

using kumiko::ConstTensor;

// Lengths of 60 users: from an eighth of `longest` up to all of it, in mixed order.
std::vector<std::int32_t> ragged_lengths(std::int64_t batch, std::int64_t longest) {
  std::vector<std::int32_t> lengths(static_cast<std::size_t>(batch));
  for (std::int64_t b = 0; b < batch; ++b) {
    const std::int64_t eighths = 8 + b * 37 % 57;  // 8..64 of 64
    lengths[static_cast<std::size_t>(b)] =
        static_cast<std::int32_t>(std::max<std::int64_t>(longest * eighths / 64, 1));
  }
  return lengths;
}

constexpr std::int64_t kPrompts = 4, kUsers = 60;  // of a mixed step

}  // namespace

std::vector<float> noise(std::int64_t size, std::uint32_t seed) {
  std::vector<float> values(static_cast<std::size_t>(size));
  for (float& value : values) {
    seed = seed * 1664525u + 1013904223u;
    value = static_cast<float>(static_cast<std::int32_t>(seed)) * 0x1p-31f;
  }
  return values;
}

Workload::Workload(const Options& options, Mode mode, int share, const kumiko::Context& context,
                   bool with_memory) {
  const std::int64_t group = options.q_heads / options.kv_heads;
  const bool weak = mode == Mode::weak;
  if (options.workload == "prefill") {
    const std::int64_t kv_heads = weak ? share : options.kv_heads;
    add(context, options, 1, kv_heads * group, kv_heads, options.tokens, options.tokens, false, with_memory);
  } else if (options.workload == "decode") {
    const std::int64_t batch = weak ? options.batch * share : options.batch;
    add(context, options, batch, options.q_heads, options.kv_heads, 1, options.tokens, false, with_memory);
  } else {
    const std::int64_t times = weak ? share : 1;
    add(context, options, kPrompts * times, options.q_heads, options.kv_heads,
        std::max<std::int64_t>(options.tokens / 4, 1), options.tokens, false, with_memory);
    add(context, options, kUsers * times, options.q_heads, options.kv_heads, 1, options.tokens, true,
        with_memory);
  }
}

void Workload::add(const kumiko::Context& context, const Options& options, std::int64_t batch,
                   std::int64_t q_heads, std::int64_t kv_heads, std::int64_t q_len, std::int64_t kv_len,
                   bool ragged, bool with_memory) {
  if (!error_.empty()) return;
  auto call = std::make_unique<Call>();
  const std::int64_t dim = options.head_dim;
  if (with_memory) {
    call->q = noise(batch * q_heads * q_len * dim, 1);
    call->k = noise(batch * kv_heads * kv_len * dim, 2);
    call->v = noise(batch * kv_heads * kv_len * dim, 3);
    call->out.resize(call->q.size());
  }
  kumiko::AttentionArgs& args = call->args;
  args.q = ConstTensor::bhsd(call->q.data(), batch, q_heads, q_len, dim);
  args.k = ConstTensor::bhsd(call->k.data(), batch, kv_heads, kv_len, dim);
  args.v = ConstTensor::bhsd(call->v.data(), batch, kv_heads, kv_len, dim);
  args.out = kumiko::Tensor::bhsd(call->out.data(), batch, q_heads, q_len, dim);
  args.is_causal = true;
  if (ragged) {
    call->lengths = ragged_lengths(batch, kv_len);
    args.seqused_k = call->lengths.data();
  }
  for (std::int64_t b = 0; b < batch; ++b) {
    const auto used = static_cast<double>(ragged ? call->lengths[static_cast<std::size_t>(b)] : kv_len);
    const auto queries = static_cast<double>(q_len);
    const double pairs = queries * used - queries * (queries - 1) / 2;
    flops_ += 4 * pairs * static_cast<double>(dim * q_heads);
    kv_bytes_ += 2 * used * static_cast<double>(dim * kv_heads) * sizeof(float);
  }
  const kumiko::Status status = kumiko::plan(context, args, &call->plan);
  if (!status.ok()) error_ = status.message();
  calls_.push_back(std::move(call));
}

void Workload::run() {
  for (const auto& call : calls_) {
    if (!error_.empty()) return;
    const kumiko::Status status = call->plan.run(call->args);
    if (!status.ok()) error_ = status.message();
  }
}

kumiko::Prediction Workload::predict(const kumiko::MachineRates& rates) const {
  kumiko::Prediction sum;
  for (const auto& call : calls_) {
    const kumiko::Prediction one = call->plan.predict(rates);
    sum.seconds += one.seconds;
    sum.attainable_seconds += one.attainable_seconds;
  }
  return sum;
}

}  // namespace scaling
