// SPDX-License-Identifier: Apache-2.0
#include "kernels/softmax/rows.h"

#define KUMIKO_ROWS(name, isa, operation, source, target) extern "C" void name(const RowArgs*) noexcept;
namespace kumiko::kernels {
#include "kernels/softmax/rows.inc"
#undef KUMIKO_ROWS

const char* name(RowOperation operation) {
  switch (operation) {
    case RowOperation::exp2_fast:
      return "exp2_fast";
    case RowOperation::exp2_panel:
      return "exp2_panel";
    case RowOperation::exp2_fast_panel:
      return "exp2_fast_panel";
    case RowOperation::panel:
      return "panel";
    case RowOperation::max:
      return "max";
    case RowOperation::sum:
      return "sum";
    case RowOperation::panel_sum:
      return "panel_sum";
    case RowOperation::multiply:
      return "multiply";
    case RowOperation::exp2:
      break;
  }
  return "exp2";
}

std::span<const RowSoftmaxKernel> row_softmax_kernels() {
  static constexpr RowSoftmaxKernel kRows[] = {
#define KUMIKO_ROWS(name, isa, operation, source, target) \
  {#name, Isa::isa, RowOperation::operation, RowType::source, RowType::target, name},
#include "kernels/softmax/rows.inc"
#undef KUMIKO_ROWS
  };
  return kRows;
}

const RowSoftmaxKernel* find_rows(Isa isa, RowOperation operation, RowType source, RowType target) {
  for (const Isa candidate : {isa, base_of(isa), Isa::reference}) {
    for (const RowSoftmaxKernel& row : row_softmax_kernels()) {
      if (row.isa == candidate && row.operation == operation && row.source == source && row.target == target)
        return &row;
    }
  }
  return nullptr;
}

}  // namespace kumiko::kernels
