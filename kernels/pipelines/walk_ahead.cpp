// SPDX-License-Identifier: Apache-2.0
// What the products of a block fetch for the next one.
#include "kernels/pipelines/walk.h"

namespace kumiko::kernels {

/// Only from pages, whose order no hardware prefetcher follows, and only for f32 and bf16 pairs, where it was
/// measured: there packing takes the largest part of the time outside products. Time with it over time
/// without, one thread of a Zen 5: 64 rows over pages of 16, pairs 0.89, f32 0.93; a window of 512 over pages
/// of 128 0.99 and 1.00; latents 1.00. Dense rows are packed in memory order, which the hardware follows.
void Walk::look_ahead(std::int64_t split, std::int64_t at, const Keys& keys) const {
  next_.stop();
  if (!head_->k.pages || head_->k.is_tiled || head_->value_in_key >= 0 || kernels_.int8 ||
      kernels_.product == Element::f16)
    return;
  Block next{};
  if (const std::int64_t after = keys.next_block(at); after < keys.to) {
    next = block_at(after, keys);
  } else if (split + 1 < range_->split_end) {
    const Keys others = keys_of(split + 1);
    if (others.skip || others.from >= others.to) return;
    next = block_at(others.first_block(), others);
  } else {
    return;
  }
  next_.begin({&head_->k, kernels_.types.key, head_->head_dim},
              {&head_->v, kernels_.types.value, head_->v_head_dim}, next.first, next.last,
              kernels_.isa == Isa::sve512 ? 256 : 64, tile_count_ * ((kBlockKeys + o_rows_) / kernels_.mr));
}

/// Runs a product, panel by panel as long as there is something to fetch, so that there are no bursts of
/// fetches, for which miss buffers are too few.
void Walk::run_product(GemmFunction gemm, const GemmArgs& args, std::int64_t nr,
                       std::int64_t panel_stride) const {
  if (!next_.any()) return gemm(&args);
  GemmArgs rest = args;
  while (next_.any() && rest.m_panels > 1) {
    GemmArgs panel = rest;
    panel.m_panels = 1;
    next_.fetch();
    gemm(&panel);
    --rest.m_panels;
    rest.a = static_cast<const std::byte*>(rest.a) + panel_stride;
    rest.c += kernels_.mr * nr;
  }
  next_.fetch();
  gemm(&rest);
}

}  // namespace kumiko::kernels
