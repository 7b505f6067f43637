// SPDX-License-Identifier: Apache-2.0
// Every argument check and its message, in one place.
#pragma once

#include <cstdint>

#include "kernels/decode/decode.h"
#include "runtime/attention.h"

namespace kumiko {

struct BackwardArgs;
struct KvAppendArgs;
struct PageTable;
struct Problem;

inline constexpr std::int64_t kMaxHeadDim = kernels::kMaxHeadDim;

/// Checks shapes, strides, types, masks and lengths. Ignores pointers, except for the values of seqused_k.
Status validate_problem(const AttentionArgs& args);

/// Checks the pointers of a valid problem: present, aligned, output apart from the inputs.
Status validate_pointers(const AttentionArgs& args);

/// For libkumiko_mpi (distributed/local_tensors.h), which computes on copies of a rank's tensors: checks of
/// the tensors themselves all that validate_problem() and validate_pointers() check, even if there is no
/// query.
KUMIKO_API Status validate_tensors(const AttentionArgs& args);

/// Whether `args` is the problem `planned` except for pointers, with the lengths and presences of `problem`.
/// Compares the fields that a plan keeps (attention_fields.inc).
Status validate_same_problem(const AttentionArgs& args, const AttentionArgs& planned, const Problem& problem);

/// Checks num_sequences, cu_seqlens, the block table apart from its entries, and the batch size of k. Part of
/// validate_problem().
Status check_sequences(const AttentionArgs& args);
/// Checks causal_sequences, prefix_lens and window_sink_tokens.
Status check_sequence_visibility(const AttentionArgs& args);
/// Checks the shapes of a tree mask and of lists of key blocks.
Status check_key_lists(const AttentionArgs& args);

/// Checks the addresses of the block table of `sequences` sequences and of its kv_indptr, and the values of
/// the latter. Part of validate_pointers().
Status check_page_table(const AttentionArgs& args, std::int64_t sequences, const PageTable& table);
/// Checks the values of kv_indptr.
Status check_kv_indptr(std::int64_t sequences, std::int64_t max_pages, const std::int32_t* kv_indptr);

/// Checks the entries of the block table that a valid problem reads. It has passed check_page_table().
Status validate_block_table(const Problem& problem, const PageTable& table);

/// Sequences of a call, and keys that the longest of them can have.
std::int64_t number_of_sequences(const AttentionArgs& args);
std::int64_t longest_capacity(const AttentionArgs& args);

Status check_pipeline(Pipeline pipeline);
Status check_precision(Precision precision);

/// The arguments of softmax_pv, pointers included.
Status validate_softmax_pv(const SoftmaxPvArgs& args);

/// Whether an optional tensor is given.
bool is_present(const ConstTensor& view);

/// The arguments of merge_states, pointers included.
Status validate_merge(std::span<const AttentionState> states, const Tensor& out, const LseView& lse);

/// Checks the arguments of kv_append, pointers included, on a machine of `domains` domains.
Status validate_kv_append(const KvAppendArgs& args, int domains);

/// The arguments of attention_backward but for pointers, and pointers of a valid problem.
Status validate_backward_problem(const BackwardArgs& args);
Status validate_backward_pointers(const BackwardArgs& args);
/// A run of a plan that was made for `planned`, pointers included.
Status validate_same_backward(const BackwardArgs& args, const BackwardArgs& planned, bool has_dsinks,
                              bool has_dalibi_slopes, const Problem& problem);
/// Whether a tensor's type, shape and strides are the planned ones, and a pointer null or not, as planned.
Status check_same_view(const char* name, const ConstTensor& given, const ConstTensor& planned);
Status check_same_presence(const char* name, const void* given, bool is_planned);

/// lse strides with "all 0" replaced by those of contiguous [batch, q_heads, q_len], the first dims of
/// `shape`.
std::array<std::int64_t, 3> lse_strides(const std::array<std::int64_t, 3>& stride,
                                        const std::array<std::int64_t, 4>& shape);

}  // namespace kumiko
