// SPDX-License-Identifier: Apache-2.0
#include "bench/mixed_step.h"

#include <cstddef>

#include "bench/data_pool.h"

namespace kumiko::bench {
namespace {

/// Rows [begin, end) of a packed tensor.
template <class View, class Byte>
void take_rows(View* view, std::int64_t begin, std::int64_t end) {
  view->data = static_cast<Byte*>(view->data) + begin * view->stride[2] * bytes_of(view->dtype);
  view->shape[2] = end - begin;
}

}  // namespace

PartOfStep::PartOfStep(const AttentionArgs& step, std::int64_t first, std::int64_t last) : args_(step) {
  const std::int32_t *const begin = step.cu_seqlens_q + first, *const end = step.cu_seqlens_q + last;
  for (const std::int32_t* at = begin; at <= end; ++at) cu_seqlens_q_.push_back(*at - *begin);
  take_rows<ConstTensor, const std::byte>(&args_.q, *begin, *end);
  take_rows<Tensor, std::byte>(&args_.out, *begin, *end);
  args_.cu_seqlens_q = cu_seqlens_q_.data();
  args_.num_sequences = last - first;
  args_.seqused_k += first;
  args_.block_table += first * step.max_pages;
}

}  // namespace kumiko::bench
