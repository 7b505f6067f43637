// SPDX-License-Identifier: Apache-2.0
// merge_states: the split-KV merge of a run, for callers who split the keys themselves.
#include <algorithm>

#include "kernels/pipelines/pipeline.h"
#include "runtime/attention.h"
#include "runtime/context.h"
#include "runtime/problem.h"
#include "runtime/validate.h"

namespace kumiko {
namespace {

using kernels::Element;

constexpr double kLeast = -1e38;  // 2^-1e38 is 0; unlike -inf it does not mean that no key was seen
constexpr std::int64_t kMergeTaskRows = 64;  // 64 KiB of outputs a task at two states of 128 floats

struct Merge {
  std::span<const AttentionState> states;
  std::vector<std::array<std::int64_t, 3>> lse_strides;
  const Tensor& out;
  const LseView& lse;
  std::array<std::int64_t, 3> lse_stride;
  const kernels::StateKernel& state;
  const kernels::StoreKernel& store;
  std::int64_t rows, dim;

  void row(std::int64_t row, float* sum, float* widened) const {
    const std::int64_t heads = out.shape[1], queries = out.shape[2];
    const std::int64_t b = row / (heads * queries), h = row / queries % heads, i = row % queries;
    const auto lse_of = [&](std::size_t n) {
      return states[n].lse[b * lse_strides[n][0] + h * lse_strides[n][1] + i * lse_strides[n][2]];
    };
    // LSEs are taken relative to their maximum: multiplied by log2(e) the largest floats would become
    // infinite.
    float top = -__builtin_inff();
    for (std::size_t n = 0; n < states.size(); ++n) top = std::max(top, lse_of(n));
    float m = -__builtin_inff(), l = 0.0f;
    std::fill_n(sum, dim, 0.0f);
    for (std::size_t n = 0; n < states.size(); ++n) {
      const AttentionState& s = states[n];
      const float lse_n = lse_of(n);
      if (lse_n == -__builtin_inff()) continue;
      const Element element = element_of(s.out.dtype);
      const std::int64_t at = b * s.out.stride[0] + h * s.out.stride[1] + i * s.out.stride[2];
      const float* values = widened;
      if (element == Element::f32) {
        values = static_cast<const float*>(s.out.data) + at;
      } else {
        for (std::int64_t d = 0; d < dim; ++d)
          widened[d] = kernels::load_element(element, s.out.data, at + d);
      }
      // A normalised output is a state of sum 1 whose maximum is the LSE.
      const double relative = static_cast<double>(lse_n) - static_cast<double>(top);
      state.merge_row(
          {&m, &l, sum, static_cast<float>(std::max(relative * kLog2e, kLeast)), 1.0f, values, dim});
    }
    store.row({sum, kernels::inverse_sum(l), dim,
               kernels::element_at(element_of(out.dtype), out.data,
                                   b * out.stride[0] + h * out.stride[1] + i * out.stride[2])});
    if (lse.data)
      lse.data[b * lse_stride[0] + h * lse_stride[1] + i * lse_stride[2]] = kernels::canonical(
          static_cast<float>(static_cast<double>(top) + static_cast<double>(kernels::log_sum_exp(m, l))));
  }
};

void merge_rows_of_task(void* context, std::int32_t task, const scheduler::Slot& slot) noexcept {
  const Merge& merge = *static_cast<const Merge*>(context);
  const kernels::FloatState float_state(merge.state.isa);
  float* scratch = reinterpret_cast<float*>(slot.scratch);
  const std::int64_t first = task * kMergeTaskRows;
  for (std::int64_t row = first; row < std::min(first + kMergeTaskRows, merge.rows); ++row)
    merge.row(row, scratch, scratch + kernels::round_up(merge.dim, 16));
}

}  // namespace

Status merge_states(const Context& context, std::span<const AttentionState> states, const Tensor& out,
                    const LseView& lse) {
  return guarded([&]() -> Status {
    if (Status s = check_context(context); !s.ok()) return s;
    if (Status s = validate_merge(states, out, lse); !s.ok()) return s;
    const Context::Impl& runtime = *impl_of(context);
    const std::int64_t rows = out.shape[0] * out.shape[1] * out.shape[2];
    if (rows == 0) return {};
    Merge merge{states,
                {},
                out,
                lse,
                lse_strides(lse.stride, out.shape),
                *kernels::find_state(runtime.isa),
                *kernels::find_store(runtime.isa, element_of(out.dtype)),
                rows,
                out.shape[3]};
    for (const AttentionState& s : states) merge.lse_strides.push_back(lse_strides(s.lse_stride, out.shape));

    return run_equal_tasks(runtime, "out.shape", (rows + kMergeTaskRows - 1) / kMergeTaskRows,
                           merge_rows_of_task, &merge,
                           static_cast<std::size_t>(2 * kernels::round_up(merge.dim, 16)) * sizeof(float));
  });
}

}  // namespace kumiko
