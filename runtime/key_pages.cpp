// SPDX-License-Identifier: Apache-2.0
// Keys between rows and tiles (KeyLayout): pack_key_pages and unpack_key_pages.
#include <algorithm>
#include <string>

#include "kernels/key_tiles/key_tiles.h"
#include "runtime/context.h"
#include "runtime/kv_append.h"
#include "runtime/problem.h"
#include "runtime/validate.h"
#include "runtime/validate_parts.h"

namespace kumiko {
namespace {

using kernels::kTileKeys;

constexpr std::int64_t kLeastTaskTiles = 16;
constexpr std::int64_t kMostTasksPerThread = 64;

struct KeyPages {
  Tensor rows, tiles;  // the one that is the input is only read
  void (*convert)(const kernels::TileRowsArgs&) noexcept;
  std::int64_t count, task_tiles;  // tiles of all pages and heads

  void tile(std::int64_t number) const {
    const std::int64_t of_page = tiles.shape[2] / kTileKeys, key = number % of_page * kTileKeys,
                       head = number / of_page % tiles.shape[1], page = number / of_page / tiles.shape[1];
    const auto at = [&](const Tensor& x) {
      return kernels::element_at(element_of(x.dtype), x.data,
                                 page * x.stride[0] + head * x.stride[1] + key * x.stride[2]);
    };
    convert({at(tiles), 0, kTileKeys, at(rows), rows.stride[2], tiles.shape[3]});
  }
};

void convert_tiles_of_task(void* context, std::int32_t task, const scheduler::Slot&) noexcept {
  const KeyPages& pages = *static_cast<const KeyPages*>(context);
  const std::int64_t first = task * pages.task_tiles, last = std::min(first + pages.task_tiles, pages.count);
  for (std::int64_t number = first; number < last; ++number) pages.tile(number);
}

/// The source or the destination of a call, and its name there.
struct Side {
  const char* name;
  Tensor view;
  bool tiled;
  KeyLayout layout() const { return tiled ? KeyLayout::tiles_of_16 : KeyLayout::rows; }
  Tensor whole() const { return keys_in_memory(view, layout()); }
};

Status check_sides(const Side& from, const Side& to) {
  for (const Side* side : {&from, &to}) {
    if (Status s = check_view(side->name, side->view); !s.ok()) return s;
  }
  const std::int64_t dim = from.view.shape[3];
  if (dim < 1 || dim > kMaxHeadDim) return invalid(element(from.name, "shape", 3), dim, "1..576");
  if (to.view.dtype != from.view.dtype)
    return invalid(std::string(to.name) + ".dtype", name_of(to.view.dtype),
                   name_of(from.view.dtype) + ", as in " + from.name);
  for (int i = 0; i < 4; ++i) {
    if (Status s = check_equal(to.name, i, to.view.shape[i], from.name, from.view.shape[i]); !s.ok())
      return s;
  }
  for (const Side* side : {&from, &to}) {
    const Tensor& view = side->view;
    const ConstTensor keys{view.data, view.shape, view.stride, view.dtype};
    // The rows' pages have as many keys as the tiles', so that one check of the size is enough.
    if (Status s = check_key_layout(side->name, keys, side->layout()); !s.ok()) return s;
  }
  if (empty(to.view.shape)) return {};
  const Tensor whole = to.whole();
  if (Status s = check_apart(to.name, whole.shape.data(), whole.stride.data(), 4); !s.ok()) return s;
  const Span read = span_of(from.whole()), written = span_of(whole);
  if (Status s = check_data(from.name, from.view.data, read, from.view.dtype); !s.ok()) return s;
  if (Status s = check_data(to.name, to.view.data, written, to.view.dtype); !s.ok()) return s;
  if (!overlap(read, written)) return {};
  return invalid(std::string(to.name) + ".data", hex(to.view.data),
                 std::string("memory apart from ") + from.name);
}

Status convert_key_pages(const Context& context, const Side& from, const Side& to) {
  return guarded([&]() -> Status {
    if (Status s = check_context(context); !s.ok()) return s;
    if (Status s = check_sides(from, to); !s.ok()) return s;
    if (empty(to.view.shape)) return {};
    const Context::Impl& runtime = *impl_of(context);
    const Side &tiles = from.tiled ? from : to, &rows = from.tiled ? to : from;
    const kernels::KeyTilesKernel& kernel =
        *kernels::find_key_tiles(runtime.isa, element_of(tiles.view.dtype));
    const auto& shape = tiles.view.shape;
    const std::int64_t count = shape[0] * shape[1] * (shape[2] / kTileKeys),
                       most_tasks = kMostTasksPerThread * runtime.executor->concurrency(),
                       task_tiles = std::max(kLeastTaskTiles, (count + most_tasks - 1) / most_tasks);
    KeyPages pages{rows.view, tiles.view, from.tiled ? kernel.to_rows : kernel.from_rows, count, task_tiles};
    return run_equal_tasks(runtime, from.name, (count + task_tiles - 1) / task_tiles, convert_tiles_of_task,
                           &pages, 0);
  });
}

Tensor without_const(const ConstTensor& view) {
  return {const_cast<void*>(view.data), view.shape, view.stride, view.dtype};
}

}  // namespace

Status pack_key_pages(const Context& context, const ConstTensor& rows, const Tensor& tiles) {
  return convert_key_pages(context, {"rows", without_const(rows), false}, {"tiles", tiles, true});
}

Status unpack_key_pages(const Context& context, const ConstTensor& tiles, const Tensor& rows) {
  return convert_key_pages(context, {"tiles", without_const(tiles), true}, {"rows", rows, false});
}

}  // namespace kumiko
