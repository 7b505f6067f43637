// SPDX-License-Identifier: Apache-2.0
// The memory that the pipeline `decode` works in.
#pragma once

#include <cstring>

#include "kernels/pipelines/decode_rows.h"
#include "kernels/pipelines/masks.h"
#include "kernels/pipelines/pipeline.h"
#include "kernels/pipelines/read_order.h"

namespace kumiko::kernels {

/// Memory of one head of a task of `decode`.
struct DecodeScratch {
  float *q, *q_range, *scores, *m, *l, *o, *total_m, *total_l, *total_o;
  std::int32_t *begin, *end;
  KeyRuns* runs;
  KeyRun* run;                // [rows][kRowRuns]
  KeyRuns* part_runs;         // the same for a part of a block
  KeyRun* part_run;           // [rows][turn_keys() / 2]
  std::uint8_t* masks;        // [rows][kBlockKeys], made from lists; only where there are any
  const std::uint8_t** mask;  // of each row from the block's first key on, or nullptr
  std::int64_t o_stride, q_stride;
  DecodeRows kv;
  // Of int8 queries and keys only.
  float *k_range, *int8_scores;  // factors of a block's keys; scores of one tile
  std::byte *q_rows, *k_panel;

  DecodeScratch(Carver& carver, const KernelSet& kernels, std::int64_t rows, std::int64_t head_dim,
                std::int64_t v_head_dim)
      : kv(carver, kernels, head_dim, v_head_dim) {
    o_stride = round_up(v_head_dim, kernels.lanes);
    const bool is_half = kernels.product == Element::f16;
    q_stride = is_half ? round_up(rows, kernels.lanes) : kernels.steps(head_dim);
    if (kernels.int8) {
      take_int8(carver, *kernels.int8, rows, head_dim);
    } else {
      q_range = carver.take<float>(is_half ? q_stride : 0);
      q = reinterpret_cast<float*>(
          carver.take<std::byte>((is_half ? head_dim : rows) * q_stride * kernels.step_bytes()));
    }
    scores = carver.take<float>(rows * kBlockKeys);
    m = carver.take<float>(rows);
    l = carver.take<float>(rows);
    o = carver.take<float>(rows * o_stride);
    total_m = carver.take<float>(rows);
    total_l = carver.take<float>(rows);
    total_o = carver.take<float>(rows * o_stride);
    begin = carver.take<std::int32_t>(rows);
    end = carver.take<std::int32_t>(rows);
    runs = carver.take<KeyRuns>(rows);
    run = carver.take<KeyRun>(rows * kRowRuns);
    part_runs = carver.take<KeyRuns>(rows);
    part_run = carver.take<KeyRun>(rows * (turn_keys(kernels) / 2));
    masks = carver.take<std::uint8_t>(kernels.has_key_lists ? rows * kBlockKeys : 0);
    mask = carver.take<const std::uint8_t*>(rows);
  }

  void take_int8(Carver& carver, const Int8ScoresKernel& int8, std::int64_t rows, std::int64_t head_dim) {
    const std::int64_t panel_rows = round_up(rows, int8.mr);
    q_range = carver.take<float>(panel_rows);
    q = reinterpret_cast<float*>(carver.take<std::byte>(panel_rows / int8.mr * int8.panel_bytes(head_dim)));
    q_rows = carver.take<std::byte>(rows * head_dim);
    k_range = carver.take<float>(kBlockKeys);
    k_panel = carver.take<std::byte>(int8.query_bytes(head_dim, int8.most_lanes()));
    int8_scores = carver.take<float>(panel_rows * int8.most_lanes());
  }

  static void clear(float* m, float* l, float* o, std::int64_t rows, std::int64_t o_stride) {
    for (std::int64_t r = 0; r < rows; ++r) m[r] = -__builtin_inff();
    std::memset(l, 0, static_cast<std::size_t>(rows) * sizeof(float));
    std::memset(o, 0, static_cast<std::size_t>(rows * o_stride) * sizeof(float));
  }
};

}  // namespace kumiko::kernels
