// SPDX-License-Identifier: Apache-2.0
// decode: few rows, keys and values read once, in place. See decode.h for why its bits are those of `online`.
#include <cstring>

#include "kernels/pipelines/pipeline.h"

namespace kumiko::kernels {
namespace {

struct Scratch {
  float *q, *scores, *m, *l, *o, *total_m, *total_l, *total_o;
  std::int32_t *begin, *end;
  ScoreRowArgs* terms;
  std::int64_t o_stride;

  Scratch(Carver& carver, const KernelSet& kernels, std::int64_t rows, std::int64_t head_dim,
          std::int64_t v_head_dim) {
    o_stride = round_up(v_head_dim, kernels.lanes);
    q = carver.take<float>(rows * kernels.steps(head_dim));
    scores = carver.take<float>(rows * kBlockKeys);
    m = carver.take<float>(rows);
    l = carver.take<float>(rows);
    o = carver.take<float>(rows * o_stride);
    total_m = carver.take<float>(rows);
    total_l = carver.take<float>(rows);
    total_o = carver.take<float>(rows * o_stride);
    begin = carver.take<std::int32_t>(rows);
    end = carver.take<std::int32_t>(rows);
    terms = carver.take<ScoreRowArgs>(rows);
  }

  static void clear(float* m, float* l, float* o, std::int64_t rows, std::int64_t o_stride) {
    for (std::int64_t r = 0; r < rows; ++r) m[r] = -__builtin_inff();
    std::memset(l, 0, static_cast<std::size_t>(rows) * sizeof(float));
    std::memset(o, 0, static_cast<std::size_t>(rows * o_stride) * sizeof(float));
  }
};

/// One query row in steps.
void set_query(const KernelSet& kernels, const HeadProblem& head, std::int64_t row, float* to) {
  const void* q = head.q_row(kernels.input, row);
  const float scale = kernels.query_scale(head.q_scale);
  if (kernels.product == Element::f32) {
    for (std::int64_t d = 0; d < head.head_dim; ++d) to[d] = load_element(kernels.input, q, d) * scale;
    return;
  }
  std::memset(to, 0, static_cast<std::size_t>(kernels.steps(head.head_dim)) * sizeof(float));
  for (std::int64_t d = 0; d < head.head_dim; ++d) {
    Bf16 x;
    from_float(load_element(kernels.input, q, d) * scale, &x);
    std::memcpy(reinterpret_cast<std::byte*>(to) + d * bytes_of(kernels.product), &x, sizeof x);
  }
}

void set_terms(ScoreRowArgs& args, const HeadProblem& head, std::int64_t row, std::int64_t key) {
  args = {};
  args.terms = &head.terms;
  if (head.terms.has_bias) args.bias = head.bias_row(row, key);
  if (head.terms.has_mask) args.mask = head.mask_row(row, key);
  if (head.terms.has_alibi) {
    args.slope = head.slope_of(row);
    args.position = head.position_of(row, key);
  }
}

}  // namespace

std::size_t decode_scratch_bytes(const KernelSet& kernels, std::int64_t rows, std::int64_t head_dim,
                                 std::int64_t v_head_dim) {
  Carver carver(nullptr);
  Scratch(carver, kernels, rows, head_dim, v_head_dim);
  return carver.used();
}

void decode_run(const KernelSet& kernels, const HeadProblem& head, const TaskRange& task,
                std::byte* memory) noexcept {
  const std::int64_t rows = task.row_end - task.row_begin;
  Carver carver(memory);
  const Scratch s(carver, kernels, rows, head.head_dim, head.v_head_dim);

  task.enter(Phase::queries);
  const std::int64_t steps = kernels.steps(head.head_dim);
  std::int64_t first = head.kv_len, last = 0;  // keys that some row sees
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t row = task.row_begin + r;
    set_query(kernels, head, row, s.q + r * steps);
    if (head.begin_of(row) < head.end_of(row)) {
      first = min_of(first, head.begin_of(row));
      last = max_of(last, head.end_of(row));
    }
  }

  first = first / kernels.per_step() * kernels.per_step();

  DecodeBlockArgs args{};
  args.q = s.q;
  args.q_stride = steps;
  args.k_stride = head.k_seq_stride;
  args.v_stride = head.v_seq_stride;
  args.rows = rows;
  args.dim = head.head_dim;
  args.v_dim = head.v_head_dim;
  args.begin = s.begin;
  args.end = s.end;
  args.scores = s.scores;
  args.score_stride = kBlockKeys;
  args.m = s.m;
  args.l = s.l;
  args.o = s.o;
  args.o_stride = s.o_stride;
  args.terms = head.terms.any() ? s.terms : nullptr;
  args.score_row = kernels.score->row;
  args.scale = kernels.score_scale(head.q_scale);
  args.fetch = kernels.fetch;
  // Rows with those of other heads between them: the hardware fetches past each row's end, and its L1 sets
  // meet those of rows a few further on. Read loop over such rows, Zen 5: 0.58 of what it has where they are
  // adjacent; decode 0.41 without the L2, 0.53 with it (f32, 8 KV heads of D = 128).
  constexpr std::int64_t kApartAhead = 16384;
  const auto are_apart = [](std::int64_t stride, std::int64_t dim) { return stride != dim; };
  if (are_apart(head.k_seq_stride, head.head_dim) || are_apart(head.v_seq_stride, head.v_head_dim))
    args.fetch.l2 = max_of(args.fetch.l2, kApartAhead);

  Scratch::clear(s.total_m, s.total_l, s.total_o, rows, s.o_stride);
  for (std::int64_t split = task.split_begin; split < task.split_end; ++split) {
    const std::int64_t split_first = max_of(split * kSplitKeys, first / kBlockKeys * kBlockKeys);
    const std::int64_t split_last = min_of((split + 1) * kSplitKeys, last);
    if (split_first >= split_last && !task.partial) continue;
    task.enter(Phase::decode);
    Scratch::clear(s.m, s.l, s.o, rows, s.o_stride);
    for (std::int64_t block = split_first; block < split_last; block += kBlockKeys) {
      const std::int64_t from = max_of(block, first), to = min_of(block + kBlockKeys, split_last);
      for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t begin = max_of(head.begin_of(task.row_begin + r), from),
                           end = min_of(head.end_of(task.row_begin + r), to);
        s.begin[r] = static_cast<std::int32_t>(begin - from);
        s.end[r] = static_cast<std::int32_t>(max_of(end, begin) - from);
        if (begin >= end) s.begin[r] = s.end[r] = 0;
        if (args.terms) set_terms(s.terms[r], head, task.row_begin + r, from);
      }
      args.k = head.k_row(kernels.input, from);
      args.v = head.v_row(kernels.input, from);
      args.kv = to - from;
      kernels.decode->decode_block(args);
    }
    task.enter(Phase::merge);
    for (std::int64_t r = 0; r < rows; ++r) {
      const float* o = s.o + r * s.o_stride;
      if (task.partial) {
        float* state = task.state_of(split, task.row_begin + r, partial_size(head.v_head_dim));
        std::memcpy(state, o, static_cast<std::size_t>(head.v_head_dim) * sizeof(float));
        state[head.v_head_dim] = s.m[r];
        state[head.v_head_dim + 1] = s.l[r];
      } else {
        kernels.state->merge_row(
            {s.total_m + r, s.total_l + r, s.total_o + r * s.o_stride, s.m[r], s.l[r], o, head.v_head_dim});
      }
    }
  }
  if (task.partial) return;
  task.enter(Phase::store);
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t row = task.row_begin + r;
    kernels.store->row({s.total_o + r * s.o_stride, inverse_sum(s.total_l[r]), head.v_head_dim,
                        head.out_row(kernels.output, row)});
    if (head.lse) head.lse_of(row) = log_sum_exp(s.total_m[r], s.total_l[r]);
  }
}

}  // namespace kumiko::kernels
