// SPDX-License-Identifier: Apache-2.0
#include "tests/runtime/server_step.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "kernels/element.h"
#include "runtime/problem.h"
#include "tests/support/key_tiles.h"
#include "tests/support/numbers.h"

namespace kumiko::test {
namespace {

void copy_rows(const GuardedTensor& from, std::int64_t rows, GuardedTensor& to) {
  for (std::int64_t h = 0; h < from.shape()[1]; ++h)
    for (std::int64_t j = 0; j < rows; ++j)
      for (std::int64_t d = 0; d < from.shape()[3]; ++d) to.at(0, h, j, d) = from.at(0, h, j, d);
}

Flush flush(Random& random) {
  return random.one_in(2) ? Flush::front : Flush::back;
}

}  // namespace

std::ostream& operator<<(std::ostream& os, const StepShape& s) {
  os << "sequences";
  for (const StepSequence& one : s.sequences) {
    os << " " << one.q_len << "x" << one.kv_len;
    if (one.parent >= 0) os << " (" << one.shared_keys << " of " << one.parent << ")";
  }
  return os << ", heads " << s.q_heads << "/" << s.kv_heads << ", dims " << s.head_dim << ", " << s.v_head_dim
            << ", type " << static_cast<int>(s.type) << ", pages of " << s.page_keys << " "
            << (s.key_tiles ? "in tiles " : "") << (s.page_lists ? "listed " : "") << to_string(s.k_layout)
            << ", causal " << s.is_causal << " alignment " << static_cast<int>(s.alignment) << ", window "
            << s.window_left << ", " << s.window_right << ", first tokens " << s.window_sink_tokens
            << ", softcap " << s.softcap << ", bias " << s.bias << ", mask " << s.mask << ", alibi "
            << s.alibi << ", sinks " << s.sinks << ", own causality " << s.causal_sequences << ", prefixes "
            << s.prefix_lens << s.lists << ", seed " << s.seed;
}

ServerStep::Operand::Operand(const Shape& shape, Layout layout, DataType type, Random& random)
    : wide(shape, layout, flush(random)) {
  if (type != DataType::f32) narrow = NarrowTensor(wide, type, flush(random));
}

void ServerStep::Operand::store(DataType type) const {
  if (type == DataType::f32) return;
  wide.round_to(type);
  narrow.copy(wide);
}

void ServerStep::Operand::poison(DataType type) const {
  if (type == DataType::f32)
    wide.poison_all();
  else
    narrow.poison_all();
}

ServerStep::ServerStep(const StepShape& shape) : shape_(shape), random_(shape.seed) {
  const StepShape& s = shape_;
  cu_seqlens_q_ = {0}, cu_seqlens_k_ = {0};
  for (const StepSequence& one : s.sequences) {
    cu_seqlens_q_.push_back(cu_seqlens_q_.back() + one.q_len);
    cu_seqlens_k_.push_back(cu_seqlens_k_.back() + one.kv_len);
    seqused_k_.push_back(one.kv_len);
    capacity_ = std::max<std::int64_t>(capacity_, one.kv_len);
  }
  positions_ = cu_seqlens_q_.back() + s.idle_rows;
  q_ = Operand({1, s.q_heads, positions_, s.head_dim}, s.q_layout, s.type, random_);
  q_.wide.fill_normal(random_);
  q_.store(s.type);
  out_ = Operand({1, s.q_heads, positions_, s.v_head_dim}, s.q_layout, s.type, random_);
  lse_ = GuardedLse(1, s.q_heads, positions_, GuardedLse::Layout::padded, flush(random_));
  row_max_ = GuardedLse(1, s.q_heads, positions_, GuardedLse::Layout::bsh, Flush::back);
  for (const StepSequence& one : s.sequences) {
    Alone& a = alone_.emplace_back();
    a.k = Operand({1, s.kv_heads, one.kv_len, s.head_dim}, Layout::bhsd, s.type, random_);
    a.v = Operand({1, s.kv_heads, one.kv_len, s.v_head_dim}, Layout::bhsd, s.type, random_);
    a.out = Operand({1, s.q_heads, one.q_len, s.v_head_dim}, Layout::bhsd, s.type, random_);
    a.lse = GuardedLse(1, s.q_heads, one.q_len, GuardedLse::Layout::contiguous, flush(random_));
    a.row_max = GuardedLse(1, s.q_heads, one.q_len, GuardedLse::Layout::contiguous, Flush::back);
    a.k.wide.fill_normal(random_), a.v.wide.fill_normal(random_);
    if (one.parent >= 0) {
      const Alone& parent = alone_[sz(one.parent)];
      copy_rows(parent.k.wide, one.shared_keys, a.k.wide);
      copy_rows(parent.v.wide, one.shared_keys, a.v.wide);
    }
    if (s.value_in_key >= 0) copy_values_of_keys(a.k.wide, s.value_in_key, a.v.wide);
    a.k.store(s.type), a.v.store(s.type);
  }
  args_.q = q_.input(s.type);
  args_.out = out_.output(s.type);
  args_.lse = lse_.view(), args_.row_max = row_max_.view();
  args_.is_causal = s.is_causal;
  args_.causal_alignment = s.alignment;
  args_.window_left = s.window_left, args_.window_right = s.window_right;
  args_.window_sink_tokens = s.window_sink_tokens;
  args_.softcap = s.softcap;
  args_.cu_seqlens_q = cu_seqlens_q_.data();
  args_.num_sequences = std::ssize(s.sequences);
  place_sequences(random_);
  const Shape scores{1, s.q_heads, positions_, capacity_};
  if (s.bias) {
    bias_ = TermTensor(scores, TermLayout::full, DataType::f32, flush(random_));
    bias_.fill([&](auto...) { return random_.normal(); });
    args_.bias = bias_.view();
  }
  if (s.mask) {
    mask_ = TermTensor(scores, TermLayout::full, DataType::boolean, flush(random_));
    mask_.fill([&](auto...) { return random_.one_in(3) ? 0.0f : 1.0f; });
    args_.mask = mask_.view();
  }
  if (s.alibi) {
    for (std::int64_t i = 0; i < args_.num_sequences * s.q_heads; ++i)
      slopes_.push_back(0.05f * static_cast<float>(i % 7));
    args_.alibi_slopes = slopes_.data();
    args_.alibi_batch_stride = s.q_heads;
  }
  if (s.sinks) {
    for (std::int64_t h = 0; h < s.q_heads; ++h) sinks_.push_back(2.0f - static_cast<float>(h % 5));
    args_.sinks = sinks_.data();
  }
  for (const StepSequence& one : s.sequences) {
    causal_sequences_.push_back(random_.one_in(2) ? 1 : 0);
    prefix_lens_.push_back(
        static_cast<std::int32_t>(random_.pick({std::int64_t{0}, random_.between(0, one.kv_len + 3)})));
  }
  if (s.causal_sequences) args_.causal_sequences = causal_sequences_.data();
  if (s.prefix_lens) args_.prefix_lens = prefix_lens_.data();
  std::vector<std::int64_t> q_lens, kv_lens;
  for (const StepSequence& one : s.sequences) q_lens.push_back(one.q_len), kv_lens.push_back(one.kv_len);
  lists_ = KeyListData(s.lists, s.q_heads, q_lens, kv_lens, random_);
  lists_.set(&args_);
}

void ServerStep::place_sequences(Random& random) {
  const StepShape& s = shape_;
  if (s.page_keys == 0) {
    k_ = Operand({1, s.kv_heads, cu_seqlens_k_.back(), s.head_dim}, s.k_layout, s.type, random);
    v_ = Operand({1, s.kv_heads, cu_seqlens_k_.back(), s.v_head_dim}, s.v_layout, s.type, random);
    args_.cu_seqlens_k = cu_seqlens_k_.data();
  } else {
    std::int64_t pages = 2;  // that belong to nobody
    for (const StepSequence& one : s.sequences) pages += (one.kv_len + s.page_keys - 1) / s.page_keys;
    k_ = Operand({pages, s.kv_heads, s.page_keys, s.head_dim}, s.k_layout, s.type, random);
    v_ = Operand({pages, s.kv_heads, s.page_keys, s.v_head_dim}, s.v_layout, s.type, random);
    args_.max_pages = (capacity_ + s.page_keys - 1) / s.page_keys;
    capacity_ = args_.max_pages * s.page_keys;
    if (s.page_lists) {
      kv_indptr_ = {static_cast<std::int32_t>(random.between(0, 3))};
      for (const StepSequence& one : s.sequences) {
        const std::int64_t needed = (one.kv_len + s.page_keys - 1) / s.page_keys,
                           listed = std::min(needed + random.between(0, 2), args_.max_pages);
        kv_indptr_.push_back(kv_indptr_.back() + static_cast<std::int32_t>(listed));
      }
      args_.kv_indptr = kv_indptr_.data();
    } else {
      args_.block_table_stride = args_.max_pages + random.between(0, 3);
    }
    // Of exactly this size, so that AddressSanitizer sees a read past the last list.
    const std::int64_t entries =
        s.page_lists ? kv_indptr_.back() : args_.block_table_stride * args_.num_sequences;
    block_table_ = std::vector<std::int32_t>(sz(std::max<std::int64_t>(entries, 1)));
    args_.block_table = block_table_.data();
    args_.seqused_k = seqused_k_.data();
  }
  args_.k = k_.input(s.type);
  args_.v = s.value_in_key < 0 ? v_.input(s.type) : values_in_keys(args_.k, s.value_in_key, s.v_head_dim);
  if (s.key_tiles) place_key_tiles(random);
  move_pages();
}

void ServerStep::move_pages() {
  const StepShape& s = shape_;
  if (s.page_keys > 0) {
    std::vector<std::int32_t> free(sz(k_.wide.shape()[0]));
    std::iota(free.begin(), free.end(), 0);
    for (std::size_t i = free.size(); i > 1; --i)
      std::swap(free[i - 1], free[sz(random_.between(0, static_cast<std::int64_t>(i) - 1))]);
    // Entries that no key needs are not pages.
    for (std::int32_t& page : block_table_) page = random_.pick({-1, -2147483647, 2147483647, 1000000});
    for (std::size_t b = 0; b < sequences(); ++b) {
      const StepSequence& one = s.sequences[b];
      for (std::int64_t i = 0; i * s.page_keys < one.kv_len; ++i) {
        if ((i + 1) * s.page_keys <= one.shared_keys) {
          table(b, i) = table(sz(one.parent), i);
          continue;
        }
        table(b, i) = free.back();
        free.pop_back();
      }
    }
  }
  store_keys_and_values();
}

void ServerStep::store_keys_and_values() {
  const StepShape& s = shape_;
  for (const Operand* x : {&k_, &v_}) {
    if (x == &v_ && s.value_in_key >= 0) continue;
    x->wide.poison_all();
    const bool is_key = x == &k_;
    for (std::size_t b = 0; b < sequences(); ++b) {
      const GuardedTensor& from = (is_key ? alone_[b].k : alone_[b].v).wide;
      for (std::int64_t j = 0; j < s.sequences[b].kv_len; ++j) {
        const std::int64_t page = s.page_keys > 0 ? table(b, j / s.page_keys) : 0,
                           row = s.page_keys > 0 ? j % s.page_keys : cu_seqlens_k_[b] + j;
        for (std::int64_t h = 0; h < s.kv_heads; ++h)
          for (std::int64_t d = 0; d < from.shape()[3]; ++d)
            x->wide.at(page, h, row, d) = from.at(0, h, j, d);
      }
    }
    x->store(s.type);
  }
  if (s.key_tiles) store_key_tiles();
}

void ServerStep::place_key_tiles(Random& random) {
  const std::int64_t bytes = args_.k.dtype == DataType::f32 ? 4 : 2,
                     width = tile_width(bytes, shape_.head_dim),
                     head = shape_.page_keys * width + shape_.tile_gap;
  const auto& shape = args_.k.shape;
  args_.k.stride = {shape[1] * head, head, width, 1};
  key_tiles_ = GuardedBuffer(sz((shape[0] * shape[1] * head - shape_.tile_gap) * bytes), flush(random));
  args_.k.data = key_tiles_.data();
  args_.key_layout = KeyLayout::tiles_of_16;
}

void ServerStep::store_key_tiles() const {
  // NaN of every type: past the lengths, in pages of nobody, and beside an odd dim.
  std::memset(key_tiles_.data(), 0xff, key_tiles_.size());
  const kernels::Element element = element_of(shape_.type);
  const std::int64_t bytes = kernels::bytes_of(element);
  for (std::size_t b = 0; b < sequences(); ++b) {
    for (std::int64_t j = 0; j < shape_.sequences[b].kv_len; ++j) {
      const std::int64_t page = block_table_[page_index(b, j / shape_.page_keys)], row = j % shape_.page_keys;
      for (std::int64_t h = 0; h < shape_.kv_heads; ++h) {
        for (std::int64_t d = 0; d < shape_.head_dim; ++d) {
          void* const to = key_tiles_.data() + (page * args_.k.stride[0] + h * args_.k.stride[1] +
                                                place_in_tiles(bytes, shape_.head_dim, row, d)) *
                                                   bytes;
          const float x = alone_[b].k.wide.at(0, h, j, d);
          if (element == kernels::Element::f32) std::memcpy(to, &x, sizeof x);
          if (element == kernels::Element::bf16) kernels::from_float(x, static_cast<kernels::Bf16*>(to));
          if (element == kernels::Element::f16) kernels::from_float(x, static_cast<kernels::F16*>(to));
        }
      }
    }
  }
}

AttentionArgs ServerStep::alone(std::size_t b) const {
  AttentionArgs a = args_;
  a.key_layout = KeyLayout::rows;
  const Alone& own = alone_[b];
  const StepSequence& one = shape_.sequences[b];
  const auto rows_of = [&](auto view, std::int64_t columns) {
    using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(view.data)>>,
                                    const std::byte, std::byte>;
    const std::int64_t bytes = view.dtype == DataType::f32 ? 4 : view.dtype == DataType::boolean ? 1 : 2;
    view.data = static_cast<Byte*>(view.data) + cu_seqlens_q_[b] * view.stride[2] * bytes;
    view.shape[2] = one.q_len;
    view.shape[3] = columns;
    return view;
  };
  a.q = rows_of(a.q, a.q.shape[3]);
  a.k = own.k.input(shape_.type), a.v = own.v.input(shape_.type), a.out = own.out.output(shape_.type);
  a.lse = own.lse.view(), a.row_max = own.row_max.view();
  if (shape_.bias) a.bias = rows_of(a.bias, one.kv_len);
  if (shape_.mask) a.mask = rows_of(a.mask, one.kv_len);
  if (shape_.alibi) a.alibi_slopes += b * sz(shape_.q_heads);
  a.alibi_batch_stride = 0;
  if (shape_.causal_sequences) a.is_causal = causal_sequences_[b] != 0;
  a.causal_sequences = nullptr;
  if (shape_.prefix_lens) a.prefix_lens = &prefix_lens_[b];
  lists_.set_alone(b, &a);
  a.seqused_k = a.cu_seqlens_q = a.cu_seqlens_k = a.block_table = a.kv_indptr = nullptr;
  a.num_sequences = a.max_pages = a.block_table_stride = 0;
  return a;
}

void ServerStep::poison_outputs() const {
  out_.poison(shape_.type);
  lse_.poison_all(), row_max_.poison_all();
}

Outcome ServerStep::packed_outcome(std::size_t b) const {
  const std::vector<float> out = out_.elements(shape_.type), lse = lse_.elements(),
                           row_max = row_max_.elements();
  const std::int64_t dim = shape_.v_head_dim;
  Outcome rows;
  for (std::int64_t h = 0; h < shape_.q_heads; ++h) {
    const std::int64_t first = h * positions_ + cu_seqlens_q_[b],
                       last = h * positions_ + cu_seqlens_q_[b + 1];
    rows.out.insert(rows.out.end(), out.begin() + first * dim, out.begin() + last * dim);
    rows.lse.insert(rows.lse.end(), lse.begin() + first, lse.begin() + last);
    rows.row_max.insert(rows.row_max.end(), row_max.begin() + first, row_max.begin() + last);
  }
  return rows;
}

::testing::AssertionResult ServerStep::borders_intact() const {
  const std::vector<float> out = out_.elements(shape_.type), lse = lse_.elements(),
                           row_max = row_max_.elements();
  const std::int64_t dim = shape_.v_head_dim;
  for (std::int64_t h = 0; h < shape_.q_heads; ++h) {
    for (std::int64_t i = cu_seqlens_q_.back(); i < positions_; ++i) {
      const std::int64_t row = h * positions_ + i;
      const bool untouched =
          is_poison(lse[sz(row)]) && is_poison(row_max[sz(row)]) &&
          std::all_of(out.begin() + row * dim, out.begin() + (row + 1) * dim, [](float x) { return x != x; });
      if (!untouched) return ::testing::AssertionFailure() << "wrote position " << i << " of no sequence";
    }
  }
  if (auto r = shape_.type == DataType::f32 ? out_.wide.gaps_untouched() : out_.narrow.gaps_untouched(); !r)
    return r;
  if (auto r = row_max_.gaps_untouched(); !r) return r;
  return lse_.gaps_untouched();
}

::testing::AssertionResult ServerStep::outputs_untouched() const {
  for (const float x : out_.elements(shape_.type))
    if (x == x) return ::testing::AssertionFailure() << "out was written";
  if (auto r = row_max_.all_untouched(); !r) return r;
  return lse_.all_untouched();
}

void expect_rows_of_sequences_alone(const ServerStep& step, const Context& context) {
  for (std::size_t b = 0; b < step.sequences(); ++b) {
    const Status alone = attention_forward(context, step.alone(b));
    ASSERT_TRUE(alone.ok()) << alone.message();
    ASSERT_TRUE(same_bits(step.packed_outcome(b), step.alone_outcome(b))) << "sequence " << b;
  }
  ASSERT_TRUE(step.borders_intact());
}

}  // namespace kumiko::test
