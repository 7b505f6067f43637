// SPDX-License-Identifier: Apache-2.0
// New tokens' keys and values into a cache that attention reads later, with rotary position embedding and
// QK-RMSNorm in the same pass (docs/serving.md).
#pragma once

#include <cstdint>

#include "attention.h"

namespace kumiko {

/// Which elements of a row rotary embedding turns together.
enum class RopeStyle : std::uint8_t {
  neox = 0,         ///< Halves: d and d + rotary_dim / 2 (GPT-NeoX, Llama as Hugging Face stores it, Qwen).
  interleaved = 1,  ///< Neighbours: 2 i and 2 i + 1 (GPT-J, the paper).
};

/// One call of kv_append. Token t = b * seq + i is position i of batch entry b; packed sequences have a batch
/// of 1. Each tensor is f32, bf16 or f16, each with its own type: rows are computed in f32 and rounded once,
/// to nearest even. The caches and query_out must not overlap an input or each other, but query_out may be
/// query itself, with its strides and type.
struct KvAppendArgs {
  ConstTensor key;     ///< [batch, kv_heads, seq, head_dim], head_dim in 1..576
  ConstTensor value;   ///< [batch, kv_heads, seq, v_head_dim], v_head_dim in 1..576
  Tensor key_cache;    ///< [pages, kv_heads, page_size, head_dim], any strides; a dense cache is
                       ///< [batch, kv_heads, capacity, head_dim]: pages of `capacity` rows
  Tensor value_cache;  ///< [pages, kv_heads, page_size, v_head_dim], the same pages
  /// [batch * seq]: token t goes to row slot % page_size of page slot / page_size; -1: nowhere. No two tokens
  /// may have the same slot.
  const std::int64_t* slot_mapping = nullptr;

  // Optional: queries, to which norm and rotation apply as well. Both tensors, or neither.
  ConstTensor query{};  ///< [batch, q_heads, seq, head_dim]; written for tokens without a slot, too
  Tensor query_out{};   ///< [batch, q_heads, seq, head_dim]

  // Optional: RMSNorm over head_dim, before the rotation (Qwen3, Gemma 3): x / sqrt(mean(x^2) + norm_eps)
  // times the weight.
  const float* key_norm = nullptr;    ///< [head_dim] weights
  const float* query_norm = nullptr;  ///< [head_dim] weights
  float norm_eps = 1e-6f;             ///< Finite, not negative.

  /// Elements of keys and queries, from the first, that are rotated: even, at most head_dim; 0: no rotation.
  std::int64_t rotary_dim = 0;
  RopeStyle rope_style = RopeStyle::neox;
  const std::int64_t* positions = nullptr;  ///< [batch * seq], 0..2^31 - 1; must be given with rotary_dim
  /// Optional tables [rope_positions, rotary_dim / 2], rows rope_stride elements apart (0: rotary_dim / 2):
  /// the cosine and sine of position p and pair i. Both, or neither.
  const float* rope_cos = nullptr;
  const float* rope_sin = nullptr;
  std::int64_t rope_positions = 0;
  std::int64_t rope_stride = 0;
  /// Without tables: the angle is (p * rope_scale) * rope_theta^(-2 i / rotary_dim), computed in f64, as are
  /// its cosine and sine, which are then rounded to f32. Both numbers must be finite and positive.
  double rope_theta = 10000.0;
  double rope_scale = 1.0;

  /// How key_cache lies in its pages: as AttentionArgs::key_layout describes it for k.
  KeyLayout key_layout = KeyLayout::rows;

  /// Optional [pages]: the domain whose memory holds a page (Context::allocate), -1 for any. Tokens go to a
  /// core of their page's domain as far as balance permits. Only entries of pages in slot_mapping are read;
  /// the bytes do not depend on it.
  const std::int32_t* page_domains = nullptr;
};

/// Writes the keys and values of new tokens into a cache and, if given, their queries into query_out, on the
/// threads of `context`. The bytes of a token depend on nothing but that token: not on the batch, the
/// threads, the pages or the ISA. If validation fails, nothing is written. Errors: invalid_argument (the
/// token of a bad or repeated slot is named), out_of_memory.
KUMIKO_API Status kv_append(const Context& context, const KvAppendArgs& args);

/// Copies keys in rows, [pages, kv_heads, page_size, head_dim] of any strides, into tiles
/// (KeyLayout::tiles_of_16), or back, bit for bit, on the threads of `context`. Both have the same shape and
/// type, f32, bf16 or f16; page_size is a multiple of 16, head_dim in 1..576; they must not overlap. Errors:
/// invalid_argument, out_of_memory.
KUMIKO_API Status pack_key_pages(const Context& context, const ConstTensor& rows, const Tensor& tiles);
KUMIKO_API Status unpack_key_pages(const Context& context, const ConstTensor& tiles, const Tensor& rows);

}  // namespace kumiko
