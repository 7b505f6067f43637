// SPDX-License-Identifier: Apache-2.0
// Faults of an attention problem.
#include <algorithm>

#include "tests/fuzz/attention_problem.h"
#include "tests/fuzz/packed_sequences.h"

namespace kumiko::fuzz {
namespace {

std::vector<std::int32_t> shorter(const std::vector<std::int32_t>& list, std::size_t size) {
  return {list.begin(), list.begin() + static_cast<std::ptrdiff_t>(std::min(size, list.size()))};
}

}  // namespace

void AttentionProblem::change(Input& input) {
  static constexpr std::size_t kEnds[] = {offsetof(kumiko_attention_args, lse),
                                          offsetof(kumiko_attention_args, lse_stride),
                                          offsetof(kumiko_attention_args, scale),
                                          offsetof(kumiko_attention_args, causal_alignment),
                                          offsetof(kumiko_attention_args, window_left),
                                          offsetof(kumiko_attention_args, seqused_k),
                                          offsetof(kumiko_attention_args, softcap),
                                          offsetof(kumiko_attention_args, bias),
                                          offsetof(kumiko_attention_args, mask),
                                          offsetof(kumiko_attention_args, alibi_slopes),
                                          offsetof(kumiko_attention_args, alibi_batch_stride),
                                          offsetof(kumiko_attention_args, kv_domains),
                                          offsetof(kumiko_attention_args, cu_seqlens_q),
                                          offsetof(kumiko_attention_args, cu_seqlens_k),
                                          offsetof(kumiko_attention_args, num_sequences),
                                          offsetof(kumiko_attention_args, block_table),
                                          offsetof(kumiko_attention_args, max_pages),
                                          offsetof(kumiko_attention_args, block_table_stride),
                                          offsetof(kumiko_attention_args, sinks),
                                          offsetof(kumiko_attention_args, lse_with_sink),
                                          offsetof(kumiko_attention_args, causal_sequences),
                                          offsetof(kumiko_attention_args, prefix_lens),
                                          offsetof(kumiko_attention_args, window_sink_tokens),
                                          offsetof(kumiko_attention_args, kv_indptr),
                                          offsetof(kumiko_attention_args, tree_mask),
                                          offsetof(kumiko_attention_args, tree_mask_stride),
                                          offsetof(kumiko_attention_args, bsr_indptr),
                                          offsetof(kumiko_attention_args, bsr_indices),
                                          offsetof(kumiko_attention_args, bsr_keys),
                                          offsetof(kumiko_attention_args, row_max),
                                          offsetof(kumiko_attention_args, row_max_stride),
                                          offsetof(kumiko_attention_args, key_layout),
                                          offsetof(kumiko_attention_args, q_scale),
                                          offsetof(kumiko_attention_args, k_scale),
                                          offsetof(kumiko_attention_args, k_scale_stride),
                                          sizeof(kumiko_attention_args) + 8,
                                          kLargestStruct};
  if (serves_ && input.one_in(2)) return change_sequences(input);
  if (has_extras_ && input.one_in(3)) return input.one_in(3) ? change_key_lists(input) : change_extras(input);
  switch (input.below(8)) {
    case 0:
    case 1:
      return change_terms(input);
    case 3:
      args_.kv_domains = input.one_in(4) ? nullptr : homes_.data();
      if (!homes_.empty()) homes_[input.byte() % homes_.size()] = static_cast<std::int32_t>(input.number());
      return;
    case 2: {
      if (input.one_in(2))
        args_.pipeline = static_cast<std::int32_t>(input.number());
      else
        args_.lse_stride[input.below(3)] = input.number();
      return;
    }
    default:
      return change_sized(input, kEnds);
  }
}

void AttentionProblem::change_terms(Input& input) {
  kumiko_const_tensor& term = input.one_in(2) ? args_.bias : args_.mask;
  switch (input.below(8)) {
    case 0:
      args_.softcap = input.raw<float>();
      return;
    case 1:
      args_.alibi_batch_stride = input.number();
      return;
    case 2:
      args_.alibi_slopes = input.one_in(2)
                               ? nullptr
                               : static_cast<const float*>(buffers_[input.byte() % buffers_.size()].data());
      return;
    case 3:
      args_.precision = input.one_in(2) ? input.below(5) : static_cast<std::int32_t>(input.number());
      return;
    case 4: {  // every tensor of another type
      const auto type = static_cast<std::int32_t>(input.below(5));
      args_.q.dtype = args_.k.dtype = args_.v.dtype = type;
      if (input.one_in(2)) args_.out.dtype = type;
      return;
    }
    case 5:  // a pointer without a shape, or one tensor in the place of the other
      if (input.one_in(2)) {
        std::swap(args_.bias, args_.mask);
      } else {
        std::fill(term.shape, term.shape + 4, 0);
        term.data = buffers_[input.byte() % buffers_.size()].data();
      }
      return;
    case 6: {  // one element for all scores, in valid memory or not
      const Layout one({args_.q.shape[0], args_.q.shape[1], args_.q.shape[2], keys(seen())}, Layout::bhsd,
                       15);
      one.place(buffers_[input.one_in(2) ? kMask : kQ],
                &term == &args_.mask ? static_cast<std::int32_t>(KUMIKO_BOOLEAN) : kTypes[input.below(4)],
                &term);
      return;
    }
    default:
      term = KUMIKO_TENSOR_INIT;
      return;
  }
}

void AttentionProblem::change_sequences(Input& input) {
  const auto change_entry = [&](std::vector<std::int32_t>& list) {
    if (list.empty()) return;
    std::int32_t& entry = list[input.byte() % list.size()];
    entry = static_cast<std::int32_t>(input.one_in(2) ? entry + input.below(5) - 2 : input.number());
  };
  switch (input.below(8)) {
    case 0: {
      if (buffers_.size() <= kTable) return;
      const Buffer& table = buffers_[kTable];
      const kumiko_attention_args a = seen();
      const std::vector<TableEntry> read =
          is_sane(false, false) && has_own_table(a) ? entries_read(a) : std::vector<TableEntry>();
      const std::size_t entries = table.size() / 4,
                        at = !read.empty() && input.one_in(2)
                                 ? static_cast<std::size_t>(read[input.byte() % read.size()].at)
                                 : input.byte();
      static_cast<std::int32_t*>(table.data())[at % entries] =
          input.one_in(2) ? input.pick(kNoPages) : static_cast<std::int32_t>(input.number());
      return;
    }
    case 1:
      return change_entry(cu_seqlens_q_);
    case 2:
      return change_entry(kv_indptr_.empty() ? cu_seqlens_k_ : kv_indptr_);
    case 3:
      args_.num_sequences = input.number();
      return;
    case 4:
      args_.max_pages = input.number();
      return;
    case 5:
      args_.block_table_stride = input.number();
      return;
    case 6: {  // fewer sequences, in lists of just their length
      if (cu_seqlens_q_.size() < 2) return;
      const std::size_t count = input.byte() % (cu_seqlens_q_.size() - 1);
      cu_seqlens_q_ = shorter(cu_seqlens_q_, count + 1), cu_seqlens_k_ = shorter(cu_seqlens_k_, count + 1);
      kv_indptr_ = shorter(kv_indptr_, count + 1);
      lengths_ = shorter(lengths_, count);
      lengths_.reserve(1);
      args_.num_sequences = static_cast<std::int64_t>(count);
      args_.cu_seqlens_q = args_.cu_seqlens_q ? cu_seqlens_q_.data() : nullptr;
      args_.cu_seqlens_k = args_.cu_seqlens_k ? cu_seqlens_k_.data() : nullptr;
      args_.kv_indptr = args_.kv_indptr ? kv_indptr_.data() : nullptr;
      args_.seqused_k = args_.seqused_k ? lengths_.data() : nullptr;
      return;
    }
    default:
      return change_sequences_pointer(input);
  }
}

// To null, or to a list that it does not belong to.
void AttentionProblem::change_sequences_pointer(Input& input) {
  const std::int32_t* const lists[] = {nullptr, cu_seqlens_q_.empty() ? nullptr : cu_seqlens_q_.data(),
                                       cu_seqlens_k_.empty() ? nullptr : cu_seqlens_k_.data()};
  switch (input.below(4)) {
    case 0:
      args_.cu_seqlens_q = input.pick(lists);
      return;
    case 1:
      (kv_indptr_.empty() ? args_.cu_seqlens_k : args_.kv_indptr) = input.pick(lists);
      return;
    case 2:
      args_.block_table = nullptr;
      return;
    default:
      args_.block_table = static_cast<const std::int32_t*>(buffers_[input.byte() % buffers_.size()].data());
      if (input.one_in(2)) args_.cu_seqlens_k = nullptr;
      return;
  }
}

}  // namespace kumiko::fuzz
