// SPDX-License-Identifier: Apache-2.0
// Faults of tensors and pointers.
#include <cstring>

#include "tests/fuzz/problem.h"

namespace kumiko::fuzz {

void Problem::change_tensor(Input& input) {
  const std::vector<Field> all = tensors();
  const Field& tensor = all[static_cast<std::size_t>(input.below(static_cast<int>(all.size())))];
  const int i = input.below(4), field = input.below(6);
  if (field < 2) {
    tensor.shape[i] = input.number();
  } else if (field < 4) {
    tensor.stride[i] = input.one_in(4) ? 0 : input.number();
  } else if (field < 5) {
    *tensor.dtype = input.one_in(4) ? static_cast<std::int32_t>(input.number()) : input.below(5);
  } else {
    *tensor.reserved = static_cast<std::int32_t>(input.number());
  }
}

void Problem::change_pointer(Input& input) {
  std::vector<void*> places = pointers();
  for (const Field& tensor : tensors()) places.push_back(tensor.data);
  void* const place = places[input.byte() % places.size()];
  void* pointer = nullptr;
  switch (input.below(4)) {
    case 0:
      break;
    case 1:
      pointer = buffers_[input.byte() % buffers_.size()].data();
      break;
    case 2:  // misaligned for most types
      std::memcpy(&pointer, place, sizeof pointer);
      pointer = reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(pointer) + 1u + input.byte() % 2u);
      break;
    default:  // The last pages of the address space: extents wrap.
      pointer = reinterpret_cast<void*>(std::uintptr_t{0} - 4 * (std::uintptr_t{1} + input.byte()));
      break;
  }
  std::memcpy(place, &pointer, sizeof pointer);
}

// Changes one size in all tensors alike: plans may be accepted that need more memory than any machine has.
// With strides of 0 in the inputs even a run is possible.
void Problem::change_all_sizes(Input& input) {
  const std::vector<std::vector<Dim>> all = sizes();
  const std::vector<Dim>& same = all[static_cast<std::size_t>(input.below(static_cast<int>(all.size())))];
  std::int64_t size = input.number();
  if (input.one_in(2)) size &= kMaxSize;
  const bool expanded = input.one_in(2), repack = input.one_in(2);
  const std::vector<Field> fields = tensors();
  for (const Dim& dim : same) {
    fields[dim.tensor].shape[dim.dim] = size;
    if (expanded) fields[dim.tensor].stride[dim.dim] = 0;
  }
  if (!repack) return;
  for (const Field& tensor : fields) {
    if (expanded && &tensor != &fields.back()) continue;
    std::uint64_t stride = 1;
    for (int i = 3; i >= 0; --i) {
      tensor.stride[i] = static_cast<std::int64_t>(stride);
      stride *= static_cast<std::uint64_t>(tensor.shape[i]);
    }
  }
}

}  // namespace kumiko::fuzz
