// SPDX-License-Identifier: Apache-2.0
#include "workload.h"

#include <unistd.h>

#include <algorithm>
#include <span>

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

void fill(std::uint32_t seed, std::span<float> values) {
  for (float& value : values) {
    seed = seed * 1664525u + 1013904223u;
    value = static_cast<float>(static_cast<std::int32_t>(seed)) * 0x1p-31f;
  }
}

constexpr std::int64_t kPrompts = 4, kUsers = 60;  // of a mixed step

}  // namespace

std::vector<float> noise(std::int64_t size, std::uint32_t seed) {
  std::vector<float> values(static_cast<std::size_t>(size));
  fill(seed, values);
  return values;
}

Workload::Workload(const Options& options, Mode mode, int share, const kumiko::Context& context,
                   int domains) {
  const std::int64_t group = options.q_heads / options.kv_heads;
  const bool weak = mode == Mode::weak;
  if (options.workload == "prefill") {
    const std::int64_t kv_heads = weak ? share : options.kv_heads;
    add(context, options, 1, kv_heads * group, kv_heads, options.tokens, options.tokens, false, domains);
  } else if (options.workload == "decode") {
    const std::int64_t batch = weak ? options.batch * share : options.batch;
    add(context, options, batch, options.q_heads, options.kv_heads, 1, options.tokens, false, domains);
  } else {
    const std::int64_t times = weak ? share : 1;
    add(context, options, kPrompts * times, options.q_heads, options.kv_heads,
        std::max<std::int64_t>(options.tokens / 4, 1), options.tokens, false, domains);
    add(context, options, kUsers * times, options.q_heads, options.kv_heads, 1, options.tokens, true,
        domains);
  }
}

void Workload::add(const kumiko::Context& context, const Options& options, std::int64_t batch,
                   std::int64_t q_heads, std::int64_t kv_heads, std::int64_t q_len, std::int64_t kv_len,
                   bool ragged, int domains) {
  if (!error_.empty()) return;
  auto call = std::make_unique<Call>();
  const std::int64_t dim = options.head_dim;
  float *k = nullptr, *v = nullptr;
  if (domains > 0) {
    call->q = noise(batch * q_heads * q_len * dim, 1);
    call->out.resize(call->q.size());
    k = keys_or_values(context, domains, batch * kv_heads, kv_len * dim, 2, &call->k, &call->k_placed,
                       &call->kv_domains);
    v = keys_or_values(context, domains, batch * kv_heads, kv_len * dim, 3, &call->v, &call->v_placed,
                       &call->kv_domains);
    if (!error_.empty()) return;
  }
  kumiko::AttentionArgs& args = call->args;
  args.kv_domains = call->kv_domains.empty() ? nullptr : call->kv_domains.data();
  args.q = ConstTensor::bhsd(call->q.data(), batch, q_heads, q_len, dim);
  args.k = ConstTensor::bhsd(k, batch, kv_heads, kv_len, dim);
  args.v = ConstTensor::bhsd(v, batch, kv_heads, kv_len, dim);
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

/// On a machine of one domain plain memory. Else as a server places them: written by this thread alone, all
/// of it would lie on one domain, whose bandwidth would then be that of all.
float* Workload::keys_or_values(const kumiko::Context& context, int domains, std::int64_t heads,
                                std::int64_t floats_of_head, std::uint32_t seed, std::vector<float>* plain,
                                kumiko::DomainMemory* placed, std::vector<std::int32_t>* kv_domains) {
  if (context.num_domains() == 1) {
    *plain = noise(heads * floats_of_head, seed);
    return plain->data();
  }
  const std::int64_t page = sysconf(_SC_PAGESIZE),
                     bytes_of_head = floats_of_head * static_cast<std::int64_t>(sizeof(float)),
                     part = ((heads * bytes_of_head + domains - 1) / domains + page - 1) / page * page;
  const kumiko::Status status =
      domains == 1 ? context.allocate(0, part, placed)
                   : context.allocate(kumiko::kEachDomain, part * context.num_domains(), placed);
  if (!status.ok()) {
    error_ = status.message();
    return nullptr;
  }
  kv_domains->clear();
  for (std::int64_t head = 0; head < heads; ++head)  // a head that lies on two is its middle's
    kv_domains->push_back(static_cast<std::int32_t>((2 * head + 1) * bytes_of_head / 2 / part));
  auto* const data = static_cast<float*>(placed->data());
  fill(seed, {data, static_cast<std::size_t>(heads * floats_of_head)});
  return data;
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
