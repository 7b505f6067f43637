// SPDX-License-Identifier: Apache-2.0
#include "bench/shapes.h"

#include <cmath>
#include <utility>

namespace kumiko::bench {
namespace {

// Names: kind, head_dim, q_heads x kv_heads, length; b8: batch 8.
Case dense(std::int64_t dim, std::int64_t q_heads, std::int64_t kv_heads, std::int64_t len) {
  const std::string name = "dense_d" + std::to_string(dim) + "_h" + std::to_string(q_heads) + "x" +
                           std::to_string(kv_heads) + "_" + std::to_string(len);
  return {{name, 1, q_heads, kv_heads, len, len, dim, dim}, Limit::compute};
}

Case causal(std::int64_t dim, std::int64_t q_heads, std::int64_t kv_heads, std::int64_t len) {
  Case c = dense(dim, q_heads, kv_heads, len);
  c.shape.name.replace(0, 5, "causal");
  c.shape.is_causal = true;
  return c;
}

// One new token per sequence over a cache of `len` keys.
Case decode(std::int64_t batch, std::int64_t dim, std::int64_t q_heads, std::int64_t kv_heads,
            std::int64_t len) {
  const std::string name = "decode_d" + std::to_string(dim) +
                           (batch > 1 ? "_b" + std::to_string(batch) : "") + "_h" + std::to_string(q_heads) +
                           "x" + std::to_string(kv_heads) + "_" + std::to_string(len);
  return {{name, batch, q_heads, kv_heads, 1, len, dim, dim, true}, Limit::either};
}

// An embedding server's call: a batch of sentences, no causal mask, padded to the longest (seqused_k) or not.
Case embed(std::int64_t dim, std::int64_t heads, std::int64_t len, std::vector<std::int32_t> used) {
  const std::string name = "embed_d" + std::to_string(dim) + "_b8_h" + std::to_string(heads) + "x" +
                           std::to_string(heads) + "_" + std::to_string(len) +
                           (used.empty() ? "" : "_ragged");
  return {{name, 8, heads, heads, len, len, dim, dim, false, std::move(used)}, Limit::compute};
}

// A call of a model with a sliding window: causal, `window` keys back.
Case windowed(std::int64_t dim, std::int64_t heads, std::int64_t len, std::int64_t window) {
  Case c = causal(dim, heads, heads, len);
  c.shape.name += "_w" + std::to_string(window);
  c.shape.window_left = window;
  return c;
}

// Half of the 64 x 64 squares of the mask are hidden.
Case block_masked(std::int64_t dim, std::int64_t heads, std::int64_t len) {
  Case c = dense(dim, heads, heads, len);
  c.shape.name += "_mask64";
  c.shape.mask_block = 64;
  return c;
}

// With tensors [batch, seq, heads, head_dim].
Case bshd(Case c) {
  c.shape.bshd = true;
  c.shape.name += "_bshd";
  return c;
}

// From 128 to 8192 keys, as many sequences below 1024 as above.
std::vector<std::int32_t> server_lengths(int sequences) {
  std::vector<std::int32_t> lengths;
  for (int b = 0; b < sequences; ++b)
    lengths.push_back(static_cast<std::int32_t>(std::lround(128 * std::pow(64.0, b / (sequences - 1.0)))));
  return lengths;
}

// A decode step of a server.
Case server_decode() {
  Case c = decode(64, 128, 32, 8, 8192);
  c.shape.name += "_ragged";
  c.shape.seqused_k = server_lengths(64);
  return c;
}

Case of_type(DataType type, Case c) {
  c.shape.type = type;
  c.shape.name += type == DataType::bf16 ? "_bf16" : "_f16";
  return c;
}

}  // namespace

const std::vector<Case>& cases() {
  static const std::vector<Case> table = {
      dense(64, 8, 8, 1024),
      dense(80, 8, 8, 1024),
      dense(128, 8, 8, 1024),
      dense(256, 8, 8, 1024),
      dense(128, 32, 8, 1024),
      dense(128, 8, 1, 1024),
      causal(64, 8, 8, 4096),
      causal(80, 8, 8, 4096),
      causal(128, 8, 8, 4096),
      causal(256, 8, 8, 4096),
      causal(128, 32, 8, 2048),
      decode(1, 64, 32, 8, 4096),
      decode(1, 80, 32, 8, 4096),
      decode(1, 128, 32, 8, 4096),
      decode(1, 256, 32, 8, 4096),
      decode(1, 128, 32, 8, 16384),
      decode(1, 128, 32, 32, 4096),
      decode(1, 128, 32, 1, 16384),
      decode(8, 128, 32, 8, 2048),
      embed(32, 12, 16, {}),
      embed(32, 12, 128, {}),
      embed(64, 12, 128, {}),
      dense(64, 8, 8, 4096),
      dense(80, 8, 8, 4096),
      dense(128, 8, 8, 4096),
      dense(256, 8, 8, 4096),
      windowed(128, 8, 8192, 512),
      block_masked(128, 8, 4096),
      of_type(DataType::bf16, dense(64, 8, 8, 4096)),
      of_type(DataType::bf16, dense(128, 8, 8, 4096)),
      of_type(DataType::f16, dense(128, 8, 8, 4096)),
      of_type(DataType::bf16, decode(1, 128, 32, 8, 4096)),
      of_type(DataType::f16, decode(1, 128, 32, 8, 4096)),
      of_type(DataType::bf16, decode(1, 128, 32, 8, 16384)),
      of_type(DataType::f16, decode(1, 128, 32, 8, 16384)),
      bshd(dense(128, 8, 8, 4096)),
      bshd(decode(1, 128, 32, 8, 4096)),
      bshd(of_type(DataType::bf16, decode(1, 128, 32, 8, 4096))),
      embed(32, 12, 128, {9, 14, 22, 31, 40, 63, 90, 128}),
  };
  return table;
}

const std::vector<Case>& server_cases() {
  static const std::vector<Case> table = {
      server_decode(),
      bshd(server_decode()),
      of_type(DataType::bf16, server_decode()),
      bshd(of_type(DataType::bf16, server_decode())),
      decode(1, 128, 32, 8, 16384),
      of_type(DataType::bf16, decode(1, 128, 32, 8, 16384)),
  };
  return table;
}

Shape latent_decode(DataType type, std::int64_t heads) {
  Shape s{"mla_h" + std::to_string(heads), 1, heads, 1, 1, 4096, 576, 512, true};
  s.type = type;
  s.latent = true;
  return s;
}

const std::vector<Case>& int8_cases() {
  static const std::vector<Case> table = [] {
    std::vector<Case> cases = {
        dense(128, 8, 8, 1024),
        causal(128, 8, 8, 4096),
        decode(1, 128, 32, 8, 16384),
        of_type(DataType::bf16, decode(1, 128, 32, 8, 16384)),
    };
    for (Case& c : cases) {
      c.shape.name = "int8_" + c.shape.name;
      c.shape.is_int8 = true;
    }
    return cases;
  }();
  return table;
}

const std::vector<Case>& tile_cases() {
  static const std::vector<Case> table = {
      server_decode(),
      of_type(DataType::bf16, server_decode()),
      of_type(DataType::f16, server_decode()),
  };
  return table;
}

Shape mixed_step(DataType type) {
  constexpr int kDecodes = 63, kChunk = 512;
  Shape s = bshd(of_type(type, server_decode())).shape;
  s.name = "mixed_step";
  s.q_len = kChunk;
  s.seqused_k = server_lengths(kDecodes);
  s.seqused_k.insert(s.seqused_k.begin(), 2048 + kChunk);
  s.cu_seqlens_q = {0, kChunk};
  for (int b = 0; b < kDecodes; ++b) s.cu_seqlens_q.push_back(s.cu_seqlens_q.back() + 1);
  return in_pages(std::move(s), 128);
}

Shape block_sparse(DataType type, bool is_dense) {
  Shape s = of_type(type, is_dense ? dense(128, 8, 8, 4096) : block_masked(128, 8, 4096)).shape;
  if (!is_dense) s.mask_form = MaskForm::key_blocks;
  s.name = "block_sparse";
  return s;
}

Shape window_in_pages(DataType type) {
  Shape s = bshd(of_type(type, windowed(128, 8, 32768, 512))).shape;
  s.name = "window_pages";
  s.q_len = 4096;
  return in_pages(std::move(s), 128);
}

Shape token_tree(DataType type, bool is_one_token) {
  Shape s = of_type(type, decode(1, 128, 32, 8, 4096)).shape;
  s.name = "token_tree";
  if (is_one_token) return s;
  s.q_len = 64;
  s.is_causal = false;
  s.mask_form = MaskForm::tree;
  s.mask_block = 1;
  return s;
}

Shape shared_prefix(DataType type, std::int64_t page_keys, bool is_shared) {
  Shape s = bshd(of_type(type, decode(16, 128, 32, 8, 4608))).shape;
  s.name = "shared_prefix";
  s.shared_keys = is_shared ? 4096 : 0;
  return in_pages(std::move(s), page_keys);
}

}  // namespace kumiko::bench
