// SPDX-License-Identifier: Apache-2.0
// One attention call from Python: the library's arguments, and what keeps their memory alive.
#pragma once

#include <kumiko/attention.h>
#include <nanobind/nanobind.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "arguments.h"
#include "outputs.h"
#include "tensors.h"

namespace kumiko::python {

/// Fills what AttentionArgs, SoftmaxPvArgs and FusedGemmArgs have in common.
template <class Args>
void set_visibility(nb::handle causal, nb::handle causal_alignment, nb::handle window, Args* args) {
  args->is_causal = flag_of("causal", causal);
  args->causal_alignment = alignment_of(causal_alignment);
  window_of(window, &args->window_left, &args->window_right);
}

/// The shape of a tensor in its own order.
std::array<std::int64_t, 4> ordered(Layout layout, std::int64_t batch, std::int64_t heads, std::int64_t seq,
                                    std::int64_t dim);
/// A contiguous tensor of [batch, heads, seq, dim] in this order, of which nothing but the memory is missing.
Tensor without_memory(Layout layout, const std::array<std::int64_t, 4>& shape, DataType dtype);

/// Arguments of attention that are no tensors. Here and in Terms the order is that of the tuples in which
/// kumiko/_attention.py passes them.
struct Settings {
  nb::handle causal, causal_alignment, window, scale, softcap, lse_with_sink, lse_base, window_sink_tokens,
      causal_sequences, prefix_lens, seqused_k, cu_seqlens_q, cu_seqlens_k, max_pages, bsr_rows, bsr_keys,
      pipeline, kv_domains, key_layout, precision;
};

/// Tensors that each run of a plan brings along, or None.
struct Terms {
  nb::handle alibi_slopes, bias, mask, tree_mask, bsr_indptr, bsr_indices, sinks, block_table, kv_indptr,
      q_scale, k_scale;
};

/// What a call writes for each query besides out, and whether it is returned.
struct RowOutputs {
  nb::handle return_lse, lse, return_row_max, row_max;
};

/// A tuple of as many objects as `Fields`, which is one of these three, has handles.
template <class Fields>
Fields unpacked(const nb::tuple& values) {
  constexpr std::size_t kCount = sizeof(Fields) / sizeof(nb::handle);
  if (values.size() != kCount) nb::raise_type_error("%zu values; expected %zu", values.size(), kCount);
  return [&]<std::size_t... i>(std::index_sequence<i...>) {
    return Fields{nb::handle(values[i])...};
  }
  (std::make_index_sequence<kCount>());
}

/// The numbers of a call, which its arguments point to.
struct Numbers {
  std::vector<std::int32_t> seqused_k, cu_seqlens_q, cu_seqlens_k, kv_indptr, kv_domains, prefix_lens;
  std::vector<std::uint8_t> causal_sequences;
};

class AttentionCall {
 public:
  AttentionCall(nb::handle q, nb::handle k, nb::handle v, Layout layout);
  AttentionCall(const AttentionCall&) = delete;
  AttentionCall& operator=(const AttentionCall&) = delete;

  void set(const Settings& settings);
  void set(const Terms& terms);
  /// The settings of a planned call.
  void set(const AttentionArgs& planned);
  /// `out` may be None.
  void set_out(nb::handle out);
  /// Of each the given tensor, or a new one if it is to be returned.
  void set(const RowOutputs& rows);
  /// The output that set_out(None) would make, without its memory.
  void plan_out();
  /// out, or (out, lse), (out, row_max), (out, lse, row_max).
  nb::object result() const;

  std::int64_t sequences() const { return args.cu_seqlens_q ? args.num_sequences : args.q.shape[0]; }

  AttentionArgs args;
  Numbers numbers;

 private:
  void set_pages(nb::handle block_table, nb::handle kv_indptr);
  void set_row_output(const char* name, nb::handle given, bool is_returned, std::optional<Output>* output,
                      LseView* view);
  std::array<std::int64_t, 4> out_shape() const;
  /// Keys that the longest sequence can have, of which a bias or mask has one column each.
  std::int64_t longest() const;

  nb::handle query_, value_;
  Layout layout_;
  std::optional<std::int64_t> max_pages_, planned_max_pages_;  // of lists
  std::optional<Output> out_, lse_, row_max_;
  std::optional<Imported> q_, k_, v_, slopes_, bias_, mask_, tree_mask_, bsr_indptr_, bsr_indices_, sinks_,
      block_table_, q_scale_, k_scale_;
};

}  // namespace kumiko::python
