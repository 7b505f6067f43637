// SPDX-License-Identifier: Apache-2.0
#include "tools/tune/workload.h"

#include <time.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace kumiko::tune {
namespace {

std::size_t bytes_of(DataType type) {
  return type == DataType::f32 ? 4 : 2;
}

/// Values in [-1, 1) that every type represents exactly: multiples of 1/8.
void fill(DataType type, std::span<std::byte> to) {
  std::uint64_t state = 0x9e3779b97f4a7c15u;
  for (std::size_t at = 0; at < to.size(); at += bytes_of(type)) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const float x = static_cast<float>(static_cast<int>(state >> 60) - 8) / 8.0f;
    if (type == DataType::f32) {
      std::memcpy(&to[at], &x, sizeof x);
      continue;
    }
    const auto bits = std::bit_cast<std::uint32_t>(x);
    // f16: 5 bits of exponent, biased by 15 instead of 127; 10 of fraction.
    const std::uint32_t half =
        x == 0.0f ? 0
                  : (bits >> 16 & 0x8000u) | (((bits >> 23 & 0xffu) - 112u) << 10) | (bits >> 13 & 0x3ffu);
    const auto narrow = static_cast<std::uint16_t>(type == DataType::bf16 ? bits >> 16 : half);
    std::memcpy(&to[at], &narrow, sizeof narrow);
  }
}

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

}  // namespace

Workload::Workload(const Shape& shape, std::size_t cache_bytes) : shape_(shape) {
  const auto bytes = [&](std::int64_t heads, std::int64_t rows) {
    return static_cast<std::size_t>(heads * rows * shape.head_dim) * bytes_of(shape.type);
  };
  kv_bytes_ = bytes(shape.kv_heads, shape.kv_len);
  copies_ = std::max<std::size_t>(1, cache_bytes / (2 * kv_bytes_));
  q_.resize(bytes(shape.q_heads, shape.q_len));
  out_.resize(q_.size());
  constexpr std::size_t kLine = 64;
  memory_.resize(2 * kv_bytes_ * copies_ + kLine);
  void* begin = memory_.data();
  std::size_t left = memory_.size();
  cache_ = {static_cast<std::byte*>(std::align(kLine, left - kLine, begin, left)), memory_.size() - kLine};
  if (shape.appends) {
    tokens_.resize(q_.size() + 2 * bytes(shape.kv_heads, shape.q_len));
    fill(shape.type, tokens_);
    for (std::int64_t token = 0; token < shape.q_len; ++token) slots_.push_back(2 * token);
  }
  fill(shape.type, q_);
  fill(shape.type, cache_.first(2 * kv_bytes_));
  for (std::size_t copy = 1; copy < copies_; ++copy)
    std::memcpy(&cache_[2 * kv_bytes_ * copy], cache_.data(), 2 * kv_bytes_);
}

AttentionArgs Workload::args(Pipeline pipeline, std::size_t copy) const {
  const Shape& s = shape_;
  const auto bhsd = [&](const std::byte* data, std::int64_t heads, std::int64_t rows) {
    return ConstTensor::bhsd(data, 1, heads, rows, s.head_dim, s.type);
  };
  const auto keys_or_values = [&](const std::byte* data) {
    return s.is_apart ? ConstTensor::bshd(data, 1, s.kv_len, s.kv_heads, s.head_dim, s.type)
                      : bhsd(data, s.kv_heads, s.kv_len);
  };
  AttentionArgs args;
  const std::byte* const keys = cache_.data() + 2 * kv_bytes_ * copy;
  args.q = bhsd(q_.data(), s.q_heads, s.q_len);
  args.k = keys_or_values(keys);
  args.v = keys_or_values(keys + kv_bytes_);
  args.out = Tensor::bhsd(reinterpret_cast<float*>(const_cast<std::byte*>(out_.data())), 1, s.q_heads,
                          s.q_len, s.head_dim);
  args.out.dtype = s.type;
  args.is_causal = s.is_causal;
  args.window_left = s.window_left;
  args.pipeline = pipeline;
  return args;
}

/// The tokens go to every other key of a copy.
KvAppendArgs Workload::append_args(std::size_t copy) {
  const Shape& s = shape_;
  const auto new_rows = [&](std::int64_t first_row, std::int64_t heads) {
    return ConstTensor::bshd(tokens_.data() + first_row * s.head_dim * bytes_of(s.type), 1, s.q_len, heads,
                             s.head_dim, s.type);
  };
  const auto rows_of_cache = [&](std::byte* data) {
    return Tensor::bshd(data, 1, s.kv_len, s.kv_heads, s.head_dim, s.type);
  };
  std::byte* const keys = &cache_[2 * kv_bytes_ * copy];
  KvAppendArgs args;
  args.key = new_rows(0, s.kv_heads);
  args.value = new_rows(s.q_len * s.kv_heads, s.kv_heads);
  args.query = new_rows(2 * s.q_len * s.kv_heads, s.q_heads);
  args.key_cache = rows_of_cache(keys), args.value_cache = rows_of_cache(keys + kv_bytes_);
  args.query_out = Tensor::bshd(out_.data(), 1, s.q_len, s.q_heads, s.head_dim, s.type);
  args.slot_mapping = slots_.data();
  args.positions = slots_.data();
  args.rotary_dim = s.head_dim;
  return args;
}

Status Workload::prepare(const Context& context, Pipeline pipeline, Call* call) const {
  *call = {pipeline, {}, context};
  return shape_.appends ? Status() : plan(context, args(pipeline, 0), &call->plan);
}

Status Workload::seconds(const Call& call, double window, double* mean) {
  // NaN, so that an element that a call does not write cannot be the right one of an earlier call.
  std::fill(out_.begin(), out_.end(), std::byte{0xff});
  const double begin = cpu_seconds();
  double end = begin;
  std::int64_t calls = 0;
  do {
    if (Status s = shape_.appends ? kv_append(call.context, append_args(next_))
                                  : call.plan.run(args(call.pipeline, next_));
        !s.ok())
      return s;
    next_ = (next_ + 1) % copies_;
    ++calls;
    end = cpu_seconds();
  } while (end - begin < window);
  *mean = (end - begin) / static_cast<double>(calls);
  return shape_.appends ? append_once(call) : Status();
}

/// Into memory without older rows, which would hide what the call leaves out. Not timed.
Status Workload::append_once(const Call& call) {
  const std::span<std::byte> copy = cache_.subspan(2 * kv_bytes_ * next_, 2 * kv_bytes_);
  std::fill(out_.begin(), out_.end(), std::byte{0xff});
  std::fill(copy.begin(), copy.end(), std::byte{0xff});
  if (Status s = kv_append(call.context, append_args(next_)); !s.ok()) return s;
  appended_ = out_;
  appended_.insert(appended_.end(), copy.begin(), copy.end());
  next_ = (next_ + 1) % copies_;  // This one is in the caches now.
  return {};
}

}  // namespace kumiko::tune
