#include "kernels/pipelines/pipeline.h"

#include <cstring>

namespace kumiko::kernels {

#define KUMIKO_PIPELINE(name)                                                                   \
  std::size_t name##_scratch_bytes(const KernelSet&, std::int64_t, std::int64_t, std::int64_t); \
  void name##_run(const KernelSet&, const HeadProblem&, const TaskRange&, std::byte*) noexcept;
#include "kernels/pipelines/kernels.inc"
#undef KUMIKO_PIPELINE

std::span<const PipelineRow> pipeline_rows() {
  static constexpr PipelineRow kRows[] = {
#define KUMIKO_PIPELINE(name) {#name, name##_scratch_bytes, name##_run},
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

const KernelSet* kernel_set(Isa isa) {
  struct Sets {
    KernelSet set[std::size(kIsas)];
    Sets() {
      for (std::size_t i = 0; i < std::size(kIsas); ++i) {
        const Isa which = kIsas[i];
        KernelSet& s = set[i];
        s = {which, 0, 0, 0, find_softmax(which), find_pack(which), find_state(which), find_dot(which), {}};
        if (!s.softmax) continue;
        s.lanes = s.softmax->lanes;
        for (int vectors = 1; vectors <= 3; ++vectors) {
          const GemmRow* row = find_gemm(which, vectors * static_cast<int>(s.lanes));
          s.gemm[vectors - 1] = row;
          if (row) {
            s.mr = row->mr;
            s.max_nr = row->nr;
          }
        }
      }
    }
  };
  static const Sets sets;
  for (const KernelSet& s : sets.set) {
    if (s.isa == isa) return s.softmax ? &s : nullptr;
  }
  return nullptr;
}

void merge_partials(const KernelSet& kernels, const HeadProblem& head, std::int64_t row, std::int64_t splits,
                    const float* partial, float* scratch) noexcept {
  const std::int64_t rows = head.group * head.q_len, dim = head.v_head_dim, size = partial_size(dim);
  float m = -__builtin_inff(), l = 0.0f;
  std::memset(scratch, 0, static_cast<std::size_t>(dim) * sizeof(float));
  for (std::int64_t split = 0; split < splits; ++split) {
    const float* state = partial + (split * rows + row) * size;
    kernels.state->merge_row({&m, &l, scratch, state[dim], state[dim + 1], state, dim});
  }
  const std::int64_t query = row / head.group, which = row % head.group;
  kernels.state->store_row(scratch, inverse_sum(l), dim,
                           head.out + which * head.out_head_stride + query * head.out_seq_stride);
  if (head.lse) head.lse[which * head.lse_head_stride + query * head.lse_seq_stride] = log_sum_exp(m, l);
}

}  // namespace kumiko::kernels
