// SPDX-License-Identifier: Apache-2.0
#include "kernels/pipelines/pipeline.h"

#include <cmath>
#include <cstring>

namespace kumiko::kernels {

#define KUMIKO_PIPELINE(name, cost, ...)                                                        \
  std::size_t name##_scratch_bytes(const KernelSet&, std::int64_t, std::int64_t, std::int64_t); \
  void name##_run(const KernelSet&, const HeadProblem&, const TaskRange&, std::byte*) noexcept;
#include "kernels/pipelines/kernels.inc"
#undef KUMIKO_PIPELINE

std::span<const PipelineRow> pipeline_rows() {
  static constexpr PipelineRow kRows[] = {
#define KUMIKO_PIPELINE(name, cost, ...) {#name, {__VA_ARGS__}, cost, name##_scratch_bytes, name##_run},
#include "kernels/pipelines/kernels.inc"
#undef KUMIKO_PIPELINE
  };
  return kRows;
}

const PipelineRow* find_pipeline(const char* name) {
  for (const PipelineRow& row : pipeline_rows()) {
    if (std::strcmp(row.name, name) == 0) return &row;
  }
  return nullptr;
}

std::int64_t tile_cost(const TaskSize& task) {
  const std::int64_t dims = task.head_dim + task.v_head_dim;
  // A query-key pair costs `dims` FMAs and about 16 more for its exponential; loading and storing an element
  // of a row about 32. Packing an element counts as 20; traces of one thread on Zen 5 (8 heads of 1024, D =
  // 128) have 29 to 36 with AVX-512, 27 with AVX2.
  return task.visible * (dims + 16) + task.keys * dims * 20 + task.rows * dims * 32;
}

std::int64_t in_place_cost(const TaskSize& task) {
  const std::int64_t dims = task.head_dim + task.v_head_dim;
  return task.keys * dims * max_of(task.rows, 4) + 64 * dims;
}

namespace {

KernelSet make_set(Isa isa, const ElementTypes& types, Element product) {
  KernelSet s{};
  s.isa = isa;
  s.types = types;
  s.score = find_score(isa);
  s.score_tile = find_score_tile(isa);
  s.pack = find_pack(isa, types.value, product);
  if (!s.pack) return s;
  if (types.key == Element::i8) {
    s.int8 = find_int8_scores(isa);
    if (!s.int8) return s;
  }
  s.product = product;
  s.softmax = find_softmax(isa, s.product);
  s.state = find_state(isa);
  s.store = find_store(isa, types.output);
  s.store_partial = find_store(isa, Element::f32);
  s.load_state = find_pack(isa, Element::f32, Element::f32);
  s.decode = find_decode(isa, types.value, product);
  if (base_of(isa) == Isa::avx512 && product == Element::f32)
    s.narrow_decode = find_decode(Isa::avx2, types.value, product);
  s.key_tiles = find_key_tiles(s.pack->isa, types.value);
  s.lanes = s.softmax->lanes;
  for (int vectors = 1; vectors <= 3; ++vectors) {
    const GemmKernel* row = find_gemm(isa, s.product, vectors * static_cast<int>(s.lanes));
    s.gemm[vectors - 1] = row;
    s.transposed_gemm[vectors - 1] =
        find_transposed_gemm(isa, s.product, vectors * static_cast<int>(s.lanes));
    if (row) {
      s.mr = row->mr;
      s.max_nr = s.strip = row->nr;
    }
  }
  return s;
}

enum Kind : std::size_t { own_product, f32_product, int8_scores, kKinds };
struct Sets {
  KernelSet set[kIsaValues][std::size(kElements)][std::size(kElements)][kKinds];  // by isa, value, output
  Sets() {
    for (const Isa which : kIsas) {
      for (const Element in : kElements) {
        for (const Element out : kElements) {
          KernelSet* const sets = set[static_cast<std::size_t>(which)][static_cast<std::size_t>(in)]
                                     [static_cast<std::size_t>(out)];
          sets[own_product] = make_set(which, {in, in, in, out}, in);
          sets[f32_product] = make_set(which, {in, in, in, out}, Element::f32);
          sets[int8_scores] = make_set(which, {Element::i8, Element::i8, in, out}, Element::f32);
        }
      }
    }
  }
};
const Sets& all_sets() {
  static const Sets made;
  return made;
}
// Made when the library is loaded, or before, if a static object of the program calls it. If a first call
// made them, another thread might fork meanwhile, and its child would wait for ever for the static to be
// ready.
[[maybe_unused]] const Sets& kMadeAtLoad = all_sets();

}  // namespace

const KernelSet* kernel_set(Isa isa, const ElementTypes& types, Element product) {
  if (types.query != types.key || (types.key != types.value && types.key != Element::i8)) return nullptr;
  if (product != Element::f32 && product != types.value) return nullptr;
  const Kind kind = types.key == Element::i8  ? int8_scores
                    : product == Element::f32 ? f32_product
                                              : own_product;
  const KernelSet& s = all_sets().set[static_cast<std::size_t>(isa)][static_cast<std::size_t>(types.value)]
                                     [static_cast<std::size_t>(types.output)][kind];
  return s.softmax ? &s : nullptr;
}

const KernelSet* kernel_set(Isa isa, const ElementTypes& types) {
  if (types.key == Element::i8) return kernel_set(isa, types, Element::f32);
  const PackKernel* own = find_pack(isa, types.value);
  return own ? kernel_set(isa, types, own->product) : nullptr;
}

float end_row(const KernelSet& kernels, const HeadProblem& head, std::int64_t row, float m, float l) {
  if (!head.has_softmax) return std::exp2(m);  // softmax.h: weights
  if (head.row_max) head.row_max_of(row) = row_maximum(m, l);
  if (head.sinks) {
    const RowEnd end = end_with_sink(*kernels.state, m, l, head.sinks[row % head.group], head.lse_form);
    if (head.lse) head.lse_of(row) = end.lse;
    return end.factor;
  }
  if (head.lse) head.lse_of(row) = log_sum_exp(m, l, head.lse_form.is_base_2);
  return inverse_sum(l);
}

void load_running(const HeadProblem& head, std::int64_t row, const RowState& to) noexcept {
  const std::int64_t dim = head.v_head_dim;
  const float* const state = head.running.rows + row * partial_size(dim);
  std::memcpy(to.o, state, static_cast<std::size_t>(dim) * sizeof(float));
  *to.m = state[dim];
  *to.l = state[dim + 1];
}

void merge_state(const KernelSet& kernels, const float* state, std::int64_t dim,
                 const RowState& into) noexcept {
  kernels.state->merge_row({into.m, into.l, into.o, state[dim], state[dim + 1], state, dim});
}

void end_merged_row(const KernelSet& kernels, const HeadProblem& head, std::int64_t row,
                    const RowState& from) noexcept {
  const std::int64_t dim = head.v_head_dim;
  if (head.running.stores()) {
    float* const state = head.running.rows + row * partial_size(dim);
    std::memcpy(state, from.o, static_cast<std::size_t>(dim) * sizeof(float));
    state[dim] = *from.m;
    state[dim + 1] = *from.l;
    return;
  }
  const float factor = end_row(kernels, head, row, *from.m, *from.l);
  kernels.store->row({from.o, factor, dim, head.out_row(kernels.types.output, row)});
}

RowMerge::RowMerge(const KernelSet& kernels, const HeadProblem& head, std::int64_t row,
                   float* scratch) noexcept
    : kernels_(kernels), head_(head), row_(row), m_(-__builtin_inff()), o_(scratch) {
  if (head.running.loads())
    load_running(head, row, {&m_, &l_, o_});
  else
    std::memset(o_, 0, static_cast<std::size_t>(head.v_head_dim) * sizeof(float));
}

void RowMerge::add(const TaskRange& range, std::int64_t row, std::int64_t split_begin,
                   std::int64_t split_end) noexcept {
  for (std::int64_t split = split_begin; split < split_end; ++split)
    add(range.state_of(split, row, partial_size(head_.v_head_dim)));
}

void RowMerge::add(const float* state) noexcept {
  merge_state(kernels_, state, head_.v_head_dim, {&m_, &l_, o_});
}

void RowMerge::end() noexcept {
  end_merged_row(kernels_, head_, row_, {&m_, &l_, o_});
}

}  // namespace kumiko::kernels
