// SPDX-License-Identifier: Apache-2.0
#include "key_lists.h"

#include <algorithm>

namespace kumiko::python {
namespace {

void expect_int32(const Imported& tensor) {
  if (!tensor.is(dlpack::kInt, 32))
    wrong_value(std::string(tensor.name) + ".dtype", tensor.dtype_name(), "int32");
}
/// Of rows of numbers side by side.
void expect_rows(const Imported& tensor) {
  const std::string name = tensor.name;
  if (tensor.size(-1) > 1 && tensor.step(-1) != 1)
    wrong_value(name + ".stride[" + std::to_string(tensor.ndim - 1) + "]", std::to_string(tensor.step(-1)),
                "1");
  if (tensor.ndim == 2 && tensor.size(-2) > 1 && tensor.step(-2) < tensor.size(-1))
    wrong_value(name + ".stride[0]", std::to_string(tensor.step(-2)),
                "at least " + std::to_string(tensor.size(-1)) + ", the length of a row");
}

std::int64_t longest_query(const AttentionArgs& args) {
  if (!args.cu_seqlens_q) return args.q.shape[2];
  std::int64_t most = 0;
  for (std::int64_t b = 0; b < args.num_sequences; ++b)
    most = std::max(most, std::int64_t{args.cu_seqlens_q[b + 1]} - args.cu_seqlens_q[b]);
  return most;
}

/// Blocks of bsr_rows queries of all sequences.
std::int64_t query_blocks(const AttentionArgs& args) {
  const auto blocks = [&](std::int64_t queries) {
    return queries > 0 ? (queries - 1) / args.bsr_rows + 1 : 0;
  };
  if (!args.cu_seqlens_q) return args.q.shape[0] * blocks(args.q.shape[2]);
  std::int64_t count = 0;
  for (std::int64_t b = 0; b < args.num_sequences; ++b)
    count += blocks(std::int64_t{args.cu_seqlens_q[b + 1]} - args.cu_seqlens_q[b]);
  return count;
}

template <class T>
const T* address_of(const Imported& tensor) {
  static constexpr T kNone = 0;  // an empty tensor may be at no address
  return tensor.data ? reinterpret_cast<const T*>(tensor.data) : &kNone;
}

}  // namespace

void tree_mask_of(const Imported& tensor, AttentionArgs* args) {
  if (!tensor.is(dlpack::kUnsigned, 8)) wrong_value("tree_mask.dtype", tensor.dtype_name(), "uint8");
  if (tensor.ndim != 2)
    wrong_value("tree_mask.shape", tensor.shape_text(), "two dimensions: query positions, bytes");
  const std::int64_t positions = args->cu_seqlens_q ? args->cu_seqlens_q[args->num_sequences]
                                                    : args->q.shape[0] * args->q.shape[2],
                     bytes = (longest_query(*args) + 7) / 8;
  if (tensor.size(-2) < positions)
    wrong_value("tree_mask.shape[0]", std::to_string(tensor.size(-2)),
                "at least " + std::to_string(positions) + ", a row for each query");
  if (tensor.size(-1) < bytes)
    wrong_value("tree_mask.shape[1]", std::to_string(tensor.size(-1)),
                "at least " + std::to_string(bytes) + " bytes, with a bit for each query of a sequence");
  expect_rows(tensor);
  args->tree_mask = address_of<std::uint8_t>(tensor);
  args->tree_mask_stride = tensor.size(-2) > 1 ? tensor.step(-2) : 0;
}

void bsr_lists_of(const Imported& indptr, const Imported& indices, AttentionArgs* args) {
  expect_int32(indptr);
  expect_int32(indices);
  if (args->bsr_rows < 1)
    wrong_value("bsr_rows", std::to_string(args->bsr_rows), "1 or more, the size of a block");
  const std::int64_t entries = query_blocks(*args) + 1;
  if (indptr.ndim != 1 && indptr.ndim != 2)
    wrong_value("bsr_indptr.shape", indptr.shape_text(), "one dimension, or two: q_heads and lists");
  if (indptr.ndim == 2 && indptr.size(-2) != args->q.shape[1])
    wrong_value("bsr_indptr.shape[0]", std::to_string(indptr.size(-2)),
                std::to_string(args->q.shape[1]) + ", as q_heads");
  if (indptr.size(-1) != entries)
    wrong_value("bsr_indptr.shape[" + std::to_string(indptr.ndim - 1) + "]", std::to_string(indptr.size(-1)),
                std::to_string(entries) + ", one more than there are blocks of queries");
  if (indices.ndim != 1) wrong_value("bsr_indices.shape", indices.shape_text(), "one dimension");
  expect_rows(indptr);
  expect_rows(indices);
  args->bsr_indptr = address_of<std::int32_t>(indptr);
  args->bsr_indices = address_of<std::int32_t>(indices);
  args->bsr_head_stride = indptr.ndim == 2 && indptr.size(-2) > 1 ? indptr.step(-2) : 0;
  // The library checks that none before the last of a head is more.
  for (std::int64_t h = 0; h < (indptr.ndim == 2 ? indptr.size(-2) : 1); ++h) {
    const std::int32_t last = args->bsr_indptr[h * args->bsr_head_stride + entries - 1];
    if (last > indices.size(-1))
      wrong_value("bsr_indptr's last number", std::to_string(last),
                  "at most " + std::to_string(indices.size(-1)) + ", the length of bsr_indices");
  }
}

}  // namespace kumiko::python
