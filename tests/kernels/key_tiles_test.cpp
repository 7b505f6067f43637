// SPDX-License-Identifier: Apache-2.0
// Every row of kernels/key_tiles against the rows of the same ISA that read keys in rows, bit for bit, tiles
// ending on guard pages and what lies past the keys or beside odd dims NaN.
#include "kernels/key_tiles/key_tiles.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/decode/decode.h"
#include "kernels/pack/pack.h"
#include "tests/kernels/elements.h"
#include "tests/support/key_tiles.h"
#include "tests/support/random.h"
#include "tests/support/tensor.h"

namespace kumiko::test {
namespace {

using kernels::Element;
using kernels::KeyTilesKernel;

constexpr std::int64_t kTileDims[] = {1,  2,  7,  8,  15,  16,  17,  31,  32,  33,  40,  63,  64,
                                      65, 72, 80, 96, 112, 127, 128, 129, 255, 256, 512, 575, 576};

struct KeyTiles : RowTest<KeyTilesKernel> {
  const kernels::PackKernel& pack = *kernels::find_pack(row.isa, row.element);
  const bool pairs = pack.product == Element::bf16;
  const std::int64_t bytes = kernels::bytes_of(row.element);
  Random random{test_seed(191)};

  std::int64_t place_of(std::int64_t dim, std::int64_t j, std::int64_t d) const {
    return place_in_tiles(bytes, dim, j, d);
  }
  std::int64_t whole(std::int64_t keys) const { return (keys + 15) / 16 * 16; }

  /// The same keys as rows and as tiles; everything else is NaN.
  struct Keys {
    ElementOperand rows, tiles;
  };
  Keys keys(std::int64_t count, std::int64_t stride, std::int64_t dim) {
    const Place place = random.pick({Place::front, Place::back, Place::misaligned});
    Keys x{ElementOperand(row.element, sz((count - 1) * stride + dim), place),
           ElementOperand(row.element, sz(whole(count) * tile_width(bytes, dim)), place)};
    for (const ElementOperand* all : {&x.rows, &x.tiles})
      for (std::size_t i = 0; i < all->size(); ++i) all->set(i, poison());
    for (std::int64_t j = 0; j < count; ++j) {
      for (std::int64_t d = 0; d < dim; ++d) {
        const float value = random.one_in(60) ? random.pick({-0.0f, 1e-40f, 1e-6f}) : random.normal();
        x.rows.set(sz(j * stride + d), value);
        x.tiles.set(sz(place_of(dim, j, d)), value);
      }
    }
    return x;
  }

  void check_scores(std::int64_t rows, std::int64_t kv, std::int64_t dim) {
    SCOPED_TRACE(::testing::Message() << row.name << " rows " << rows << " kv " << kv << " dim " << dim);
    const kernels::DecodeKernel& decode =
        *kernels::find_decode(row.isa, row.element, pairs ? kernels::Element::bf16 : kernels::Element::f32);
    const std::int64_t width = tile_width(bytes, dim), steps = pairs ? (dim + 1) / 2 : dim,
                       q_stride = steps + random.between(0, 2),
                       score_stride = (kv + 63) / 64 * 64 + random.between(0, 1) * 16;
    const Keys x = keys(kv, dim, dim);
    Operand<float> q(sz((rows - 1) * q_stride + steps), Place::back);
    for (float& value : q.span()) {
      value = random.normal();
      if (pairs) std::memset(&value, 0x3f, 2);  // two elements, both finite
    }
    for (std::int64_t r = 0; pairs && dim % 2 == 1 && r < rows; ++r)
      std::memset(reinterpret_cast<char*>(&q[sz(r * q_stride + steps - 1)]) + 2, 0, 2);
    // Groups of tiles in any order: here the first of each lies where the tiles do.
    const int shift = static_cast<int>(random.between(4, 8));
    std::vector<const void*> groups;
    std::vector<kernels::RowRange> ahead;
    for (std::int64_t key = 0; key < kv; key += std::int64_t{1} << shift) {
      groups.push_back(kernels::element_at(row.element, x.tiles.data(), key * width));
      ahead.push_back({static_cast<const char*>(groups.back()), 64, 64,
                       whole(std::min(kv - key, std::int64_t{1} << shift)) * width * bytes / 64});
    }
    ahead.push_back(ahead.back());
    ahead.back().rows = kernels::kNoEnd;
    Operand<float> got(sz((rows - 1) * score_stride + whole(kv)), Place::back),
        want(sz(rows * score_stride), Place::back);
    for (float& s : got.span()) s = 7.0f;
    const void* first = x.rows.data();
    const kernels::RowRange range{static_cast<const char*>(first), dim * bytes, dim * bytes, kernels::kNoEnd};
    decode.scores({q.data(),
                   q_stride,
                   {&first, dim, 8},
                   rows,
                   dim,
                   kv,
                   want.data(),
                   score_stride,
                   {&range, &range + 1},
                   {}});
    row.scores({q.data(),
                q_stride,
                {groups.data(), width, shift},
                rows,
                dim,
                kv,
                got.data(),
                score_stride,
                {ahead.data(), &ahead.back()},
                {}});
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t j = 0; j < kv; ++j) {
        const float a = got[sz(r * score_stride + j)], b = want[sz(r * score_stride + j)];
        ASSERT_TRUE(same_value(a, b) && !std::isnan(a))
            << "row " << r << " key " << j << ": " << a << ", want " << b;
      }
      for (std::int64_t j = whole(kv); r + 1 < rows && j < score_stride; ++j)
        ASSERT_EQ(got[sz(r * score_stride + j)], 7.0f) << "written past the tiles";
    }
    ASSERT_TRUE(x.tiles.intact() && got.intact() && q.intact());
  }

  void check_panels(std::int64_t count, std::int64_t dim) {
    SCOPED_TRACE(::testing::Message() << row.name << " rows " << count << " dim " << dim);
    const Keys x = keys(count, dim, dim);
    const std::int64_t steps = pairs ? (dim + 1) / 2 : dim, mr = row.mr, panels = (count + mr - 1) / mr;
    ASSERT_EQ(mr, pack.mr);
    Operand<float> got(sz(whole(count) * steps), Place::back), want(sz(panels * mr * steps), Place::back);
    for (float& value : got.span()) value = poison();
    pack.key({x.rows.data(), dim, count, dim, want.data()});
    row.panels({x.tiles.data(), count, dim, got.data()});
    ASSERT_EQ(std::memcmp(got.data(), want.data(), want.size() * sizeof(float)), 0);
    for (std::size_t i = want.size(); i < got.size(); ++i) ASSERT_EQ(got[i], 0.0f) << i;
    ASSERT_TRUE(x.tiles.intact() && got.intact());
  }

  void check_columns(std::int64_t first, std::int64_t count, std::int64_t dim) {
    SCOPED_TRACE(::testing::Message() << row.name << " columns " << first << "+" << count << " dim " << dim);
    const std::int64_t stride = dim + random.between(0, 5), width = tile_width(bytes, dim);
    const Place place = random.pick({Place::front, Place::back, Place::misaligned});
    ElementOperand rows(row.element, sz((count - 1) * stride + dim), place),
        back(row.element, rows.size(), place), tile(row.element, sz(16 * width), place);
    for (std::size_t i = 0; i < rows.size(); ++i) rows.set(i, random.normal()), back.set(i, 9.0f);
    for (std::size_t i = 0; i < tile.size(); ++i) tile.set(i, 5.0f);
    row.from_rows({tile.data(), first, count, rows.data(), stride, dim});
    for (std::int64_t j = 0; j < 16; ++j) {
      const bool written = j >= first && j < first + count;
      for (std::int64_t d = 0; d < width; ++d) {
        const float want = !written ? 5.0f : d < dim ? rows.get(sz((j - first) * stride + d)) : 0.0f;
        ASSERT_EQ(tile.get(sz(place_of(dim, j, d))), want) << "key " << j << " dim " << d;
      }
    }
    for (std::int64_t j = first; dim % 2 == 1 && bytes == 2 && j < first + count; ++j)
      tile.set(sz(place_of(dim, j, dim)), poison());
    row.to_rows({tile.data(), first, count, back.data(), stride, dim});
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(back.size()); ++i)
      ASSERT_EQ(back.get(sz(i)), i % stride < dim ? rows.get(sz(i)) : 9.0f) << i;
    ASSERT_TRUE(rows.intact() && back.intact() && tile.intact());
  }
};

TEST_P(KeyTiles, ScoresAreThoseOfRowsForEveryTail) {
  for (const std::int64_t rows : {1, 2, 3, 4, 5, 7, 8, 9, 13, 16})
    for (const std::int64_t kv : {1, 15, 16, 17, 31, 32, 33, 48, 65, 255, 256}) {
      if (!random.one_in(thinned(1, 2, 8))) continue;
      ASSERT_NO_FATAL_FAILURE(check_scores(rows, kv, random.between(1, 40)));
    }
}

TEST_P(KeyTiles, ScoresAreThoseOfRowsForEveryDim) {
  for (const std::int64_t dim : kTileDims)
    for (const std::int64_t rows : {1, 2, 4, 6}) {
      if (!random.one_in(thinned(1, 2, 8))) continue;
      ASSERT_NO_FATAL_FAILURE(check_scores(rows, 40, dim));
    }
}

TEST_P(KeyTiles, PanelsAreThoseOfRows) {
  for (const std::int64_t dim : kTileDims)
    for (const std::int64_t rows : {1, 4, 7, 8, 15, 16, 17, 40, 256}) {
      if (!random.one_in(thinned(1, 2, 8))) continue;
      ASSERT_NO_FATAL_FAILURE(check_panels(rows, dim));
    }
}

TEST_P(KeyTiles, ColumnsAreWrittenAndReadAlone) {
  for (const std::int64_t dim : kTileDims) {
    if (random.one_in(thinned(1, 2, 8))) {
      ASSERT_NO_FATAL_FAILURE(check_columns(0, 16, dim));
    }
    for (int repeat = 0; repeat < thinned(4, 2, 1); ++repeat) {
      const std::int64_t first = random.between(0, 15);
      ASSERT_NO_FATAL_FAILURE(check_columns(first, random.between(1, 16 - first), dim));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, KeyTiles, ::testing::ValuesIn(host_rows(kernels::key_tiles_kernels())),
                         RowName());

}  // namespace
}  // namespace kumiko::test
