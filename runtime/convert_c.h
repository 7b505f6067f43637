// SPDX-License-Identifier: Apache-2.0
// The structs of the C ABI, checked and converted to the types of attention.h.
#pragma once

#include <cstdint>
#include <string>

#include "runtime/attention.h"
#include "runtime/attention_backward.h"
#include "runtime/attention_backward_c.h"
#include "runtime/attention_c.h"
#include "runtime/kv_append.h"
#include "runtime/kv_append_c.h"
#include "runtime/stream.h"
#include "runtime/stream_c.h"

namespace kumiko::c_abi {

// Functions with KUMIKO_API are exported for libkumiko_mpi, whose C ABI has the same structs. This header is
// not installed.

KUMIKO_API Status null_argument(const char* name, const char* expected);
KUMIKO_API Status bad_value(const std::string& name, std::int64_t value, const char* expected);

Status convert(const kumiko_const_tensor& from, const std::string& name, ConstTensor* to);
Status convert(const kumiko_tensor& from, const std::string& name, Tensor* to);
/// `given` may be of an older or a newer release: see struct_size in attention_c.h.
KUMIKO_API Status convert_args(const kumiko_attention_args* given, AttentionArgs* to);
/// The same. `name`: the name of the argument or field. `of`: the prefix of its fields' names in messages.
KUMIKO_API Status convert_attention(const kumiko_attention_args* given, const char* name, const char* of,
                                    AttentionArgs* to);
Status convert_args(const kumiko_softmax_pv_args* given, SoftmaxPvArgs* to);
Status convert_args(const kumiko_fused_gemm_args* given, FusedGemmArgs* to);
Status convert_args(const kumiko_kv_append_args* given, KvAppendArgs* to);
Status convert_args(const kumiko_backward_args* given, BackwardArgs* to);
Status convert_options(const kumiko_context_options* given, ContextOptions* to);
Status convert_options(const kumiko_stream_options* given, StreamOptions* to);

}  // namespace kumiko::c_abi
