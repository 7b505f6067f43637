// SPDX-License-Identifier: Apache-2.0
// Where tiles end and begin: output rows, states of splits, and running states between two calls.
#include <cstring>

#include "kernels/pipelines/row_places.h"
#include "kernels/pipelines/walk.h"

namespace kumiko::kernels {
namespace {

/// Begins a stored state, a row of partial_size(dim) floats: m and l, and O = 0 if it has no O (!used).
float* begin_row(float* row, std::int64_t dim, bool used, float m, float l) {
  if (!used) std::memset(row, 0, static_cast<std::size_t>(dim) * sizeof(float));
  row[dim] = used ? m : kMinusInfinity;
  row[dim + 1] = used ? l : 0.0f;
  return row;
}

/// Stores the states of a tile's lanes as rows from `state` on.
void store_states(const KernelSet& kernels, const Tile& tile, const TileState& from, bool used,
                  std::int64_t dim, float* state) {
  void* rows[kMaxLanes];
  alignas(64) float one[kMaxLanes];
  for (std::int64_t n = 0; n < tile.used; ++n)
    rows[n] = begin_row(state + n * partial_size(dim), dim, used, from.m[n], from.l[n]);
  if (!used) return;
  for (std::int64_t n = 0; n < tile.nr; ++n) one[n] = 1.0f;
  kernels.store_partial->tile({from.o, one, tile.nr, dim, rows, tile.used});
}

}  // namespace

void Walk::store_partial(const Tile& tile, std::int64_t split, std::int64_t stage) const {
  const std::int64_t dim = head_->v_head_dim;
  store_states(kernels_, tile, {tile.split.m + stage * tile.nr, tile.split.l + stage * tile.nr, tile.split.o},
               !tile.split_empty, dim, range_->state_of(split, tile.row, partial_size(dim)));
}

void Walk::store_merged(const Tile& tile) const {
  const std::int64_t dim = head_->v_head_dim;
  store_states(kernels_, tile, tile.total, !tile.total_empty, dim,
               range_->state_of(range_->split_begin, tile.row, partial_size(dim)));
}

void Walk::store_running(const Tile& tile) const {
  const std::int64_t dim = head_->v_head_dim;
  store_states(kernels_, tile, tile.total, !tile.total_empty, dim,
               head_->running.rows + tile.row * partial_size(dim));
}

/// Fetches running states into L2, while the first split is computed. Calls over 512 keys take 7 % more time
/// than one call over all keys; with load_running() before the first split it was 9 % (4096 rows, D = 128,
/// Zen 5).
void Walk::fetch_running(const Tile& tile) const {
  constexpr std::int64_t kStep = 64 / sizeof(float);
  const std::int64_t size = partial_size(head_->v_head_dim);
  const float* const states = head_->running.rows + tile.row * size;
  for (std::int64_t i = 0; i < tile.used * size; i += kStep) __builtin_prefetch(states + i, 1, 2);
}

/// A tile none of whose rows has seen a key stays empty: its first split is then copied, not merged.
void Walk::load_running(Tile& tile) const {
  const std::int64_t dim = head_->v_head_dim, size = partial_size(dim);
  const void* rows[kMaxLanes];
  tile.total_waits = false;
  for (std::int64_t n = 0; n < tile.nr; ++n) {
    const float* const row = head_->running.rows + (tile.row + n) * size;
    const bool used = n < tile.used;
    tile.total.m[n] = used ? row[dim] : kMinusInfinity;
    tile.total.l[n] = used ? row[dim + 1] : 0.0f;
    if (!used) continue;
    rows[n] = row;
    tile.total_empty = tile.total_empty && row[dim] == kMinusInfinity && row[dim + 1] == 0.0f;
  }
  if (tile.total_empty) return;
  kernels_.load_state->query({rows, tile.used, tile.nr, dim, 1.0f, tile.total.o, nullptr});
}

void Walk::store_rows(const Tile& tile) const {
  void* rows[kMaxLanes];
  alignas(64) float factor[kMaxLanes];
  for (std::int64_t n = tile.used; n < tile.nr; ++n) factor[n] = 0.0f;
  const Element element = kernels_.types.output;
  for_rows(*head_, tile.row, tile.used, {head_->out_head_stride, head_->out_seq_stride},
           [&](std::int64_t n, std::int64_t at) { rows[n] = element_at(element, head_->out, at); });
  if (!tile.total_empty && head_->ends_with_sum()) {
    for (std::int64_t n = 0; n < tile.used; ++n) factor[n] = inverse_sum(tile.total.l[n]);
  } else {
    for (std::int64_t n = 0; n < tile.used; ++n)
      factor[n] = end_row(kernels_, *head_, tile.row + n, tile.total_empty ? kMinusInfinity : tile.total.m[n],
                          tile.total_empty ? 0.0f : tile.total.l[n]);
  }
  if (!tile.total_empty)
    return kernels_.store->tile({tile.total.o, factor, tile.nr, head_->v_head_dim, rows, tile.used});
  for (std::int64_t n = 0; n < tile.used; ++n)  // +0 has no bits set in any element type
    std::memset(rows[n], 0, static_cast<std::size_t>(head_->v_head_dim * bytes_of(element)));
}

}  // namespace kumiko::kernels
