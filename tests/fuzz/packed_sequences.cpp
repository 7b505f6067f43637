// SPDX-License-Identifier: Apache-2.0
// Packed sequences and pages of an attention problem, over the tensors that it has already.
#include "tests/fuzz/packed_sequences.h"

#include <algorithm>

#include "tests/fuzz/attention_problem.h"

namespace kumiko::fuzz {
namespace {

constexpr std::int64_t kPageKeys[] = {1, 2, 3, 7, 15, 16, 17, 32, 48, 64, 100, 256, 512};
constexpr std::int64_t kMaxPages[] = {0, 1, 2, 3, 5, 9, 40};

std::int64_t part_of(Input& input, std::int64_t whole) {
  return input.byte() * whole / 255;
}

// Lengths of `count` sequences in `room` places; the last ones may be of none.
std::vector<std::int32_t> draw_cu_seqlens(Input& input, std::int64_t count, std::int64_t room) {
  std::vector<std::int32_t> list(static_cast<std::size_t>(count) + 1);
  for (std::size_t b = 1; b < list.size(); ++b)
    list[b] = list[b - 1] + static_cast<std::int32_t>(part_of(input, room - list[b - 1]));
  return list;
}

}  // namespace

void AttentionProblem::pack_queries(Input& input, const Places& at) {
  const std::int64_t heads = args_.q.shape[1], positions = args_.q.shape[0] * args_.q.shape[2];
  const auto place = [&](std::size_t home, auto* tensor, int shared, std::int64_t pad) {
    Layout({1, heads, positions, tensor->shape[3]}, at.order, shared, pad)
        .place(buffers_[home], tensor->dtype, tensor);
  };
  args_.num_sequences = 1 + input.below(5);
  cu_seqlens_q_ = draw_cu_seqlens(input, args_.num_sequences, positions);
  args_.cu_seqlens_q = cu_seqlens_q_.data();
  place(kQ, &args_.q, at.q_shared, at.q_pad);
  place(kOut, &args_.out, 0, at.out_pad);
  if (at.lse_step == 1) return;
  const std::int64_t stride[3] = {heads * positions * at.lse_step, positions * at.lse_step, at.lse_step};
  std::copy(stride, stride + 3, args_.lse_stride);
}

void AttentionProblem::place_keys(const Places& at, std::int64_t batch, std::int64_t keys) {
  const std::int64_t heads = args_.k.shape[1];
  Layout({batch, heads, keys, args_.k.shape[3]}, at.order, at.kv_shared, at.k_pad)
      .place(buffers_[kK], args_.k.dtype, &args_.k);
  Layout({batch, heads, keys, args_.v.shape[3]}, at.order, at.kv_shared, at.v_pad)
      .place(buffers_[kV], args_.v.dtype, &args_.v);
}

// The same memory as pages; with a shared batch all pages are one.
void AttentionProblem::draw_pages(Input& input, const Places& at, std::int64_t rows, bool has_lists) {
  std::int64_t page = input.pick(kPageKeys), pages = rows / page;
  if (pages == 0 && rows > 0) page = std::min<std::int64_t>(rows, 512), pages = rows / page;
  if (at.kv_shared & 1) pages = std::min<std::int64_t>(pages, 4);
  place_keys(at, pages, page);
  args_.max_pages = std::min(input.pick(kMaxPages), 1 + 600 / page);
  const int gap = input.below(4);
  const std::int64_t count = sequences_of(args_);
  std::int64_t entries = count * table_stride(args_) + 1;
  if (has_lists) {
    kv_indptr_.assign(static_cast<std::size_t>(count) + 1, gap);
    for (std::size_t b = 1; b < kv_indptr_.size(); ++b)
      kv_indptr_[b] = kv_indptr_[b - 1] + static_cast<std::int32_t>(part_of(input, args_.max_pages));
    args_.kv_indptr = kv_indptr_.data();
    entries = std::max<std::int64_t>(kv_indptr_.back(), 1);  // an address where there are no pages, too
  } else if (gap > 0) {
    args_.block_table_stride = args_.max_pages + gap - 1;
    entries = count * table_stride(args_) + 1;
  }
  Buffer& table = buffers_.emplace_back(entries, KUMIKO_I32, false);
  auto* const entry = static_cast<std::int32_t*>(table.data());
  for (std::int64_t i = 0; i < entries; ++i) entry[i] = kNoPages[i % 4];
  args_.block_table = entry;
}

void AttentionProblem::draw_sequences(Input& input, const Places& at) {
  const std::int64_t batch = args_.q.shape[0], kv_len = args_.k.shape[2],
                     rows = at.kv_shared & 1 ? std::min<std::int64_t>(batch, 1) * kv_len : batch * kv_len;
  const int how = input.byte();
  if (how & 1)
    pack_queries(input, at);
  else if (how & 8)
    args_.num_sequences = batch;
  const std::int64_t count = sequences_of(args_);
  bool has_keys = true;
  switch (how >> 1 & 3) {
    case 0:
      if (how & 1) place_keys(at, count, at.kv_shared & 1 ? rows : rows / count);
      break;
    case 1:
      place_keys(at, 1, rows);
      cu_seqlens_k_ = draw_cu_seqlens(input, count, rows);
      args_.cu_seqlens_k = cu_seqlens_k_.data();
      break;
    default:
      has_equal_tables_ = (how & 32) != 0;
      draw_pages(input, at, rows, (how & 64) != 0);
      has_keys = args_.k.shape[0] > 0;
  }
  lengths_.assign(static_cast<std::size_t>(count), 0);
  lengths_.shrink_to_fit();
  lengths_.reserve(1);  // an address where there are no sequences, too
  args_.seqused_k = how & 16 || args_.block_table ? lengths_.data() : nullptr;
  for (std::int64_t b = 0; has_keys && b < count; ++b)
    lengths_[static_cast<std::size_t>(b)] = static_cast<std::int32_t>(part_of(input, room_of(args_, b)));
  complete_table(args_);
  enlarge_terms(input, at);
  homes_.resize(static_cast<std::size_t>(count * args_.k.shape[1]), -1);
  homes_.shrink_to_fit();
  if (args_.kv_domains) args_.kv_domains = homes_.data();
}

// As large as the packed problem needs them.
void AttentionProblem::enlarge_terms(Input& input, const Places& at) {
  const std::array<std::int64_t, 4> scores = {args_.q.shape[0], args_.q.shape[1], args_.q.shape[2],
                                              longest_capacity(args_)};
  const auto enlarge = [&](std::size_t home, kumiko_const_tensor* term, double value) {
    if (!term->data && std::count(term->shape, term->shape + 4, 0) == 4) return;
    const int how = input.byte();
    const Layout layout(scores, at.order, how & 15);
    buffers_[home] = Buffer(layout.extent(), term->dtype, false);
    buffers_[home].fill(static_cast<std::uint32_t>(home), has_specials_);
    if (how & 16) buffers_[home].sprinkle(7, 3, value);
    layout.place(buffers_[home], term->dtype, term);
  };
  enlarge(kBias, &args_.bias, -std::numeric_limits<double>::infinity());
  enlarge(kMask, &args_.mask, 0);
  const std::int64_t count = sequences_of(args_), heads = args_.q.shape[1];
  if (!args_.alibi_slopes) return;
  buffers_[kSlopes] =
      Buffer(count > 0 ? heads + (count - 1) * args_.alibi_batch_stride : 0, KUMIKO_F32, false);
  buffers_[kSlopes].fill(8, has_specials_);
  args_.alibi_slopes = static_cast<const float*>(buffers_[kSlopes].data());
}

void AttentionProblem::complete_table(const kumiko_attention_args& a) {
  if (!has_own_table(a)) return;
  auto* const entry = static_cast<std::int32_t*>(buffers_[kTable].data());
  for (const auto& [page, at, is_listed] : entries_read(a)) {
    const std::int64_t place = has_equal_tables_ ? page : at;
    if (is_listed && (entry[at] < 0 || entry[at] >= a.k.shape[0]))
      entry[at] = static_cast<std::int32_t>((place * 7 + 3) % a.k.shape[0]);
  }
}

bool AttentionProblem::has_own_table(const kumiko_attention_args& a) const {
  return a.block_table && buffers_.size() > kTable && a.block_table == buffers_[kTable].data();
}

std::int64_t AttentionProblem::sequences(const kumiko_attention_args& a) const {
  return sequences_of(a);
}

std::int64_t AttentionProblem::keys(const kumiko_attention_args& a) const {
  return longest_capacity(a);
}

std::int64_t AttentionProblem::size_of_list(const std::int32_t* list) const {
  for (const auto* own : {&lengths_, &cu_seqlens_q_, &cu_seqlens_k_, &kv_indptr_, &prefixes_}) {
    if (list && list == own->data()) return static_cast<std::int64_t>(own->size());
  }
  return 0;
}

// What the library refuses before it reads a list stays as it is.
void AttentionProblem::drop_short_lists(kumiko_attention_args* a) const {
  const std::int64_t kv_heads = std::max<std::int64_t>(a->k.shape[1], 1);
  const bool is_read = a->num_sequences >= 1 && a->num_sequences <= kMaxSize / kv_heads;
  if (is_read && a->cu_seqlens_q && a->num_sequences + 1 > size_of_list(a->cu_seqlens_q))
    a->cu_seqlens_q = nullptr;
  const std::int64_t most = std::max(a->q.shape[0], sequences_of(*a));
  if (most > std::ssize(prefixes_)) a->prefix_lens = nullptr;
  if (most > std::ssize(causal_)) a->causal_sequences = nullptr;
  if (a->cu_seqlens_k && most >= size_of_list(a->cu_seqlens_k)) a->cu_seqlens_k = nullptr;
  if (a->kv_indptr && most >= size_of_list(a->kv_indptr)) a->kv_indptr = nullptr;
  SizedProblem::drop_short_lists(a);
  const Wide heads = static_cast<Wide>(most) * a->k.shape[1];
  if (heads > static_cast<Wide>(homes_.size())) a->kv_domains = nullptr;
}

Operand AttentionProblem::written_part(const Operand& o) const {
  Operand part = o;
  part.shape[2] = std::min(part.shape[2], positions_of(seen()));
  return part;
}

std::span<const std::int32_t> AttentionProblem::other_lengths() {
  const kumiko_attention_args a = seen();
  const std::span<std::int32_t> used(lengths_.data(), static_cast<std::size_t>(sequences_of(a)));
  if (!a.seqused_k || (a.block_table && (!has_own_table(a) || a.k.shape[0] == 0 || !has_sane_page_lists(a))))
    return {};
  if (!a.block_table && !a.cu_seqlens_k) {
    std::reverse(used.begin(), used.end());
  } else {
    // Lengths may be beyond the pages listed where no query sees the keys there.
    for (std::size_t b = 0; b < used.size(); ++b)
      used[b] = std::max(static_cast<std::int32_t>(room_of(a, static_cast<std::int64_t>(b))) - used[b], 0);
  }
  complete_table(a);
  return used;
}

}  // namespace kumiko::fuzz
