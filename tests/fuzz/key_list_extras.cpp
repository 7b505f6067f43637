// SPDX-License-Identifier: Apache-2.0
// What a problem has of tree masks and of lists of key blocks, drawn and broken, and what of them the
// documentation allows.
#include <algorithm>
#include <cstring>

#include "tests/fuzz/attention_problem.h"
#include "tests/fuzz/packed_sequences.h"

namespace kumiko::fuzz {
namespace {

std::int64_t queries_of(const kumiko_attention_args& a, std::int64_t b) {
  return a.cu_seqlens_q ? a.cu_seqlens_q[b + 1] - a.cu_seqlens_q[b] : a.q.shape[2];
}
std::int64_t longest_of(const kumiko_attention_args& a) {
  if (!a.cu_seqlens_q) return a.q.shape[2];
  std::int64_t most = 0;
  for (std::int64_t b = 0; b < a.num_sequences; ++b) most = std::max(most, queries_of(a, b));
  return most;
}

Operand tree_of(const kumiko_attention_args& a) {
  const std::int64_t bytes = (longest_of(a) + 7) / 8,
                     rows = a.cu_seqlens_q ? positions_of(a) : a.q.shape[0] * a.q.shape[2];
  return {"tree_mask",
          a.tree_mask,
          KUMIKO_BOOLEAN,
          2,
          {rows, bytes, 0, 0},
          {a.tree_mask_stride != 0 ? a.tree_mask_stride : bytes, 1, 0, 0},
          0,
          false};
}

/// Blocks of queries of the sequences before `end`.
Wide blocks_before(const kumiko_attention_args& a, std::int64_t end) {
  const auto blocks = [&](std::int64_t queries) {
    return (static_cast<Wide>(queries) + a.bsr_rows - 1) / a.bsr_rows;
  };
  if (!a.cu_seqlens_q) return end * blocks(a.q.shape[2]);
  Wide sum = 0;
  for (std::int64_t b = 0; b < end; ++b) sum += blocks(queries_of(a, b));
  return sum;
}

Operand indptr_of(const kumiko_attention_args& a) {
  const auto entries = static_cast<std::int64_t>(blocks_before(a, sequences_of(a)) + 1);
  return {"bsr_indptr",
          a.bsr_indptr,
          KUMIKO_I32,
          2,
          {a.bsr_head_stride != 0 ? a.q.shape[1] : 1, entries, 0, 0},
          {a.bsr_head_stride, 1, 0, 0},
          0,
          false};
}

bool fits_in_memory(const Operand& o) {
  return is_empty(o) || extent_of(o.shape.data(), o.stride.data(), 2) * 4 <= kMaxBytes;
}

}  // namespace

void AttentionProblem::draw_key_lists(Input& input) {
  const int how = input.byte();
  if ((how & 3) == 0) return;
  if (buffers_.size() == kTable) add_input(1, KUMIKO_I32, 12);  // The number of a table stays a table's.
  kumiko_attention_args a = seen();
  if (how & 1) {
    const std::int64_t bytes = (longest_of(a) + 7) / 8;
    if (how & 4) a.tree_mask_stride = bytes + 1;
    const Operand tree = tree_of(a);
    const Wide size = is_empty(tree) ? Wide{1} : extent_of(tree.shape.data(), tree.stride.data(), 2);
    const Buffer& bits = add_input(static_cast<std::int64_t>(size), KUMIKO_BOOLEAN, 10);
    auto* const data = static_cast<unsigned char*>(bits.data());
    for (std::size_t i = 0; i < bits.size(); ++i) data[i] = static_cast<unsigned char>(input.byte() ^ i * 37);
    args_.tree_mask = data;
    args_.tree_mask_stride = a.tree_mask_stride;
  }
  if ((how & 2) == 0) return;
  static constexpr std::int64_t kRows[] = {1, 2, 5, 16, 100};
  static constexpr std::int64_t kBlockSizes[] = {1, 3, 16, 64, 256, 300};
  a.bsr_rows = input.pick(kRows), a.bsr_keys = input.pick(kBlockSizes);
  const auto blocks = static_cast<std::int64_t>(blocks_before(a, sequences_of(a)));
  if (how & 8) a.bsr_head_stride = blocks + 1 + (how >> 4 & 1);
  // An entry of no list at the start, so that there is always memory.
  std::vector<std::int32_t> indptr, indices = {-9};
  for (std::int64_t h = 0; h < (how & 8 ? std::max<std::int64_t>(a.q.shape[1], 1) : 1); ++h) {
    indptr.resize(static_cast<std::size_t>(h * a.bsr_head_stride), -3);
    indptr.push_back(static_cast<std::int32_t>(indices.size()));
    for (std::int64_t i = 0; i < blocks; ++i) {
      const int seen_blocks = input.byte();
      for (std::int64_t j = 0; j * a.bsr_keys < keys(a); ++j) {
        if (seen_blocks >> (j % 8) & 1) indices.push_back(static_cast<std::int32_t>(j));
      }
      indptr.push_back(static_cast<std::int32_t>(indices.size()));
    }
  }
  const auto copied = [&](const std::vector<std::int32_t>& list) {
    const Buffer& buffer = add_input(std::ssize(list), KUMIKO_I32, 11);
    std::memcpy(buffer.data(), list.data(), buffer.size());
    return static_cast<std::int32_t*>(buffer.data());
  };
  args_.bsr_indptr = copied(indptr), args_.bsr_indices = copied(indices);
  args_.bsr_rows = a.bsr_rows, args_.bsr_keys = a.bsr_keys, args_.bsr_head_stride = a.bsr_head_stride;
}

void AttentionProblem::change_key_lists(Input& input) {
  std::int64_t* const numbers[] = {&args_.tree_mask_stride, &args_.bsr_rows, &args_.bsr_keys,
                                   &args_.bsr_head_stride};
  const void* const other = buffers_[input.byte() % buffers_.size()].data();
  switch (input.below(4)) {
    case 0:
      args_.tree_mask = input.one_in(2) ? nullptr : static_cast<const std::uint8_t*>(other);
      return;
    case 1: {
      const std::int32_t** const list = input.one_in(2) ? &args_.bsr_indptr : &args_.bsr_indices;
      *list = input.one_in(2) ? nullptr : static_cast<const std::int32_t*>(other);
      return;
    }
    case 2: {
      const Buffer* const list = buffer_at(input.one_in(2) ? args_.bsr_indptr : args_.bsr_indices);
      if (!list || list->is_output() || list->size() < 4) return;
      std::int32_t& entry = static_cast<std::int32_t*>(list->data())[input.byte() % (list->size() / 4)];
      entry = static_cast<std::int32_t>(input.one_in(2) ? entry + input.below(5) - 2 : input.number());
      return;
    }
    default:
      *input.pick(numbers) = input.number();
      return;
  }
}

bool AttentionProblem::has_sane_key_lists(const kumiko_attention_args& a) const {
  if (!a.tree_mask && a.tree_mask_stride != 0) return false;
  if (a.tree_mask) {
    const Operand tree = tree_of(a);
    if (a.tree_mask_stride < 0 || tree.stride[0] < tree.shape[1] || !fits_in_memory(tree)) return false;
  }
  if ((a.bsr_indptr == nullptr) != (a.bsr_indices == nullptr)) return false;
  if (!a.bsr_indptr) return a.bsr_rows == 0 && a.bsr_keys == 0 && a.bsr_head_stride == 0;
  if (std::min(a.bsr_rows, a.bsr_keys) < 1 || std::max(a.bsr_rows, a.bsr_keys) > kMaxSize) return false;
  const Operand indptr = indptr_of(a);
  if (a.bsr_head_stride < 0 || (a.bsr_head_stride > 0 && a.bsr_head_stride < indptr.shape[1])) return false;
  return fits_in_memory(indptr);
}

void AttentionProblem::add_key_lists(const kumiko_attention_args& a, std::vector<Operand>* all) const {
  if (!has_sane_size() || !has_sane_sequences(a) || !has_sane_key_lists(a)) return;
  if (a.tree_mask) all->push_back(tree_of(a));
  if (!a.bsr_indptr) return;
  const Operand indptr = indptr_of(a);
  all->push_back(indptr);
  // Only lists here can be read to see how many entries there are.
  std::int64_t entries = 0;
  const Buffer* const list = buffer_at(a.bsr_indptr);
  if (list &&
      extent_of(indptr.shape.data(), indptr.stride.data(), 2) * 4 <= static_cast<Wide>(list->size())) {
    for (std::int64_t h = 0; h < indptr.shape[0]; ++h)
      entries = std::max<std::int64_t>(entries, a.bsr_indptr[h * a.bsr_head_stride + indptr.shape[1] - 1]);
  }
  all->push_back({"bsr_indices", a.bsr_indices, KUMIKO_I32, 1, {entries, 0, 0, 0}, {1, 0, 0, 0}, 0, false});
}

bool AttentionProblem::has_sane_block_lists(const kumiko_attention_args& a) const {
  if (!a.bsr_indptr) return true;
  const Operand indptr = indptr_of(a);
  const Wide key_blocks = (static_cast<Wide>(longest_capacity(a)) + a.bsr_keys - 1) / a.bsr_keys;
  for (std::int64_t h = 0; h < indptr.shape[0]; ++h) {
    const std::int32_t* const list = a.bsr_indptr + h * a.bsr_head_stride;
    if (list[0] < 0 || !std::is_sorted(list, list + indptr.shape[1])) return false;
    for (std::int64_t i = 0; i + 1 < indptr.shape[1]; ++i) {
      for (std::int32_t n = list[i]; n < list[i + 1]; ++n) {
        if (a.bsr_indices[n] < 0 || a.bsr_indices[n] >= key_blocks) return false;
        if (n > list[i] && a.bsr_indices[n] <= a.bsr_indices[n - 1]) return false;
      }
    }
  }
  return true;
}

}  // namespace kumiko::fuzz
