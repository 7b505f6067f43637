// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/append_problem.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "tests/fuzz/checks.h"

namespace kumiko::fuzz {
namespace {

constexpr std::int64_t kHeadDims[] = {1, 2, 7, 8, 16, 17, 24, 40, 72};

template <class Value>
std::unique_ptr<std::int64_t[]> list(std::int64_t count, Value value) {
  auto made = std::make_unique<std::int64_t[]>(static_cast<std::size_t>(count));
  for (std::int64_t t = 0; t < count; ++t) made[static_cast<std::size_t>(t)] = value(t);
  return made;
}

}  // namespace

AppendProblem::AppendProblem(Input& input) : Conversion("kv_append") {
  const int flags = input.byte(), types = input.byte();
  batch_ = 1 + input.below(2), seq_ = input.below(10), page_size_ = 1 + input.below(20);
  const bool has_tiles = page_size_ > 17;
  if (has_tiles) page_size_ = (page_size_ - 17) * 16;
  const std::int64_t heads = 1 + input.below(3), dim = input.pick(kHeadDims), v_dim = input.pick(kHeadDims),
                     query_heads = input.below(4), pages = tokens() / page_size_ + 1 + input.below(3);
  const Layout::Order order = flags & 1 ? Layout::bshd : Layout::bhsd,
                      cache_order = flags & 2 ? Layout::bshd : Layout::bhsd;
  const std::int64_t pad = flags & 4 ? 3 : 0;
  const auto type = [types](int shift) { return kTypes[types >> shift & 3]; };
  place({batch_, heads, seq_, dim}, order, pad, type(0), false, &args_->key);
  place({batch_, heads, seq_, v_dim}, order, pad, type(2), false, &args_->value);
  if (has_tiles) {
    const std::int64_t width = type(4) == KUMIKO_F32 ? dim : dim + dim % 2;
    place({pages, heads, page_size_, width}, Layout::bhsd, 0, type(4), true, &args_->key_cache);
    args_->key_cache.shape[3] = dim;
    args_->key_layout = KUMIKO_KEY_TILES_OF_16;
  } else {
    place({pages, heads, page_size_, dim}, cache_order, pad, type(4), true, &args_->key_cache);
  }
  place({pages, heads, page_size_, v_dim}, cache_order, pad, type(6), true, &args_->value_cache);
  if (query_heads > 0) {
    place({batch_, query_heads, seq_, dim}, order, pad, type(2), false, &args_->query);
    place({batch_, query_heads, seq_, dim}, cache_order, 0, type(4), true, &args_->query_out);
  }
  // Slots of a step coprime to their number: all different.
  const std::int64_t slots = pages * page_size_, first = input.byte() % slots;
  std::int64_t step = 1 + input.byte() % slots;
  while (std::gcd(step, slots) != 1) ++step;
  slots_ = list(tokens(), [&](std::int64_t t) { return input.one_in(4) ? -1 : (first + t * step) % slots; });
  args_->slot_mapping = slots_.get();
  domains_.resize(static_cast<std::size_t>(pages));
  for (std::int32_t& domain : domains_) domain = input.one_in(2) ? -1 : 0;
  if (input.one_in(2)) args_->page_domains = domains_.data();
  if (flags & 8) args_->key_norm = floats(dim);
  if (flags & 16 && query_heads > 0) args_->query_norm = floats(dim);
  if (flags & 32 && dim >= 2) {
    args_->rotary_dim = 2 * (1 + input.byte() % (dim / 2));
    args_->rope_style = flags >> 6 & 1;
    const bool has_tables = (flags & 128) != 0;
    const std::int64_t furthest = has_tables ? input.below(30) : kMaxSize;
    positions_ = list(tokens(), [&](std::int64_t) { return std::abs(input.number() % (furthest + 1)); });
    args_->positions = positions_.get();
    if (has_tables) {
      args_->rope_positions = furthest + 1;
      args_->rope_stride = input.one_in(2) ? args_->rotary_dim : 0;
      const std::int64_t stride = args_->rope_stride ? args_->rope_stride : args_->rotary_dim / 2;
      args_->rope_cos = floats(furthest * stride + args_->rotary_dim / 2);
      args_->rope_sin = floats(furthest * stride + args_->rotary_dim / 2);
    }
  }
}

void AppendProblem::add_fault(Input& input) {
  kumiko_const_tensor* const inputs[] = {&args_->key, &args_->value, &args_->query};
  kumiko_tensor* const outputs[] = {&args_->key_cache, &args_->value_cache, &args_->query_out};
  const int which = input.below(args_->query.data || args_->query.shape[0] ? 3 : 2);
  const bool is_output = input.one_in(2);
  switch (input.below(8)) {
    case 0: {
      if (tokens() == 0) return;
      const std::int64_t at = input.byte() % tokens(), slots = args_->key_cache.shape[0] * page_size_,
                         slot = input.one_in(2) ? input.number() : slots_[input.byte() % tokens()];
      is_refused_ = slot < -1 || slot >= slots;
      for (std::int64_t t = 0; t < tokens(); ++t)
        is_refused_ = is_refused_ || (t != at && slot >= 0 && slots_[t] == slot);
      slots_[at] = slot;
      return;
    }
    case 1: {
      if (tokens() == 0 || !args_->positions) return;
      const std::int64_t position = input.number();
      positions_[input.byte() % tokens()] = position;
      is_refused_ = position < 0 || position > (args_->rope_cos ? args_->rope_positions - 1 : kMaxSize);
      return;
    }
    case 2: {
      const std::int64_t i = input.below(4), size = input.number();
      std::int64_t& shape = is_output ? outputs[which]->shape[i] : inputs[which]->shape[i];
      is_refused_ = shape != size;
      shape = size;
      return;
    }
    case 3: {
      const auto dtype = static_cast<std::int32_t>(input.number());
      (is_output ? outputs[which]->dtype : inputs[which]->dtype) = dtype;
      // Another of the three types may need more memory than there is.
      is_refused_ = true;
      if (is_tensor_type(dtype)) (is_output ? outputs[which]->reserved : inputs[which]->reserved) = 1;
      return;
    }
    case 4: {
      if (tokens() == 0) return;
      if (is_output)
        outputs[which]->data = nullptr;
      else
        inputs[which]->data = nullptr;
      is_refused_ = true;
      return;
    }
    case 5: {
      if (args_->rope_cos || args_->rotary_dim == 0) return;
      const double number = input.raw<double>();
      (input.one_in(2) ? args_->rope_theta : args_->rope_scale) = number;
      is_refused_ = !(std::isfinite(number) && number > 0);
      return;
    }
    case 6: {
      if (!args_->page_domains) return;
      const std::int64_t page = input.byte() % std::ssize(domains_);
      const auto domain = static_cast<std::int32_t>(input.number());
      domains_[static_cast<std::size_t>(page)] = domain;
      // Those of pages that no token goes to are not read. Every machine here has fewer domains.
      for (std::int64_t t = 0; t < tokens(); ++t)
        is_refused_ = is_refused_ ||
                      (slots_[t] >= 0 && slots_[t] / page_size_ == page && (domain < -1 || domain >= 64));
      if (!is_refused_) domains_[static_cast<std::size_t>(page)] = 0;
      return;
    }
    default:
      args_->norm_eps = input.raw<float>();
      is_refused_ = !(std::isfinite(args_->norm_eps) && args_->norm_eps >= 0);
      return;
  }
}

kumiko_status AppendProblem::call(const kumiko_context* context) const {
  return kumiko_kv_append(context, args_.get());
}

template <class Tensor>
void AppendProblem::place(std::array<std::int64_t, 4> shape, Layout::Order order, std::int64_t pad,
                          std::int32_t type, bool is_output, Tensor* tensor) {
  add(Layout(shape, order, 0, pad), type, is_output, tensor);
}

const float* AppendProblem::floats(std::int64_t count) {
  Buffer& buffer = buffers_.emplace_back(count, KUMIKO_F32, false);
  buffer.fill(static_cast<std::uint32_t>(buffers_.size()), true);
  return static_cast<const float*>(buffer.data());
}

void AppendProblem::check_outputs() const {
  std::set<std::int64_t> slots;
  for (std::int64_t t = 0; t < tokens(); ++t) slots.insert(slots_[static_cast<std::size_t>(t)]);
  for (const kumiko_tensor* cache : {&args_->key_cache, &args_->value_cache}) {
    const auto* const buffer = &*std::find_if(buffers_.begin(), buffers_.end(),
                                              [&](const Buffer& b) { return b.data() == cache->data; });
    const auto bytes = static_cast<std::size_t>(bytes_of(cache->dtype));
    std::vector<bool> written(buffer->size());
    for (const std::int64_t slot : slots) {
      for (std::int64_t h = 0; slot >= 0 && h < cache->shape[1]; ++h) {
        if (cache == &args_->key_cache && args_->key_layout == KUMIKO_KEY_TILES_OF_16) {
          mark_column(slot, h, &written);
          continue;
        }
        const auto at = static_cast<std::size_t>(slot / page_size_ * cache->stride[0] + h * cache->stride[1] +
                                                 slot % page_size_ * cache->stride[2]) *
                        bytes;
        std::fill_n(written.begin() + static_cast<std::ptrdiff_t>(at),
                    cache->shape[3] * static_cast<std::int64_t>(bytes), true);
      }
    }
    check_rest(*buffer, written);
  }
}

void AppendProblem::mark_column(std::int64_t slot, std::int64_t head, std::vector<bool>* written) const {
  const kumiko_tensor& cache = args_->key_cache;
  const std::int64_t bytes = bytes_of(cache.dtype), row = slot % page_size_;
  const std::int64_t tile =
      (slot / page_size_ * cache.stride[0] + head * cache.stride[1] + row / 16 * 16 * cache.stride[2]) *
      bytes;
  for (std::int64_t unit = 0; unit * 4 < cache.stride[2] * bytes; ++unit)
    std::fill_n(written->begin() + static_cast<std::ptrdiff_t>(tile + (unit * 16 + row % 16) * 4), 4, true);
}

}  // namespace kumiko::fuzz
