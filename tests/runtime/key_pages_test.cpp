// SPDX-License-Identifier: Apache-2.0
// Who writes keys in tiles: every byte that kv_append, pack_key_pages and unpack_key_pages write is known.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "tests/runtime/append_case.h"
#include "tests/runtime/contexts.h"
#include "tests/support/key_tiles.h"

namespace kumiko::test {
namespace {

constexpr DataType kPageTypes[] = {DataType::f32, DataType::bf16, DataType::f16};

struct KeyPages : testing::TestWithParam<std::string> {
  std::vector<Context> contexts = contexts_of(GetParam());
  Random random{test_seed(211)};
};

TEST_P(KeyPages, AppendWritesEveryByteOfTheModel) {
  for (int repeat = 0; repeat < thinned(100, 30, 6); ++repeat) {
    AppendShape s;
    s.key_tiles = true, s.in_order = random.one_in(2);
    s.batch = random.between(1, 3), s.seq = random.pick({1, 2, 5, 17, 40, 100});
    s.kv_heads = random.pick({1, 2, 3, 8}), s.q_heads = s.kv_heads * random.between(0, 2);
    s.head_dim = random.pick({1, 2, 8, 31, 40, 64, 72, 127, 128, 576}), s.v_head_dim = random.pick({1, 40});
    s.page_size = random.pick({16, 32, 48, 128, 512});
    for (DataType* type : {&s.key_type, &s.key_cache_type, &s.value_type, &s.value_cache_type})
      *type = kPageTypes[random.between(0, 2)];
    s.input_layout = random.pick({Layout::bhsd, Layout::bshd, Layout::padded});
    s.skips = random.one_in(3);
    if (s.head_dim >= 2 && !random.one_in(4)) s.rotary_dim = 2 * random.between(1, s.head_dim / 2);
    s.style = random.pick({RopeStyle::neox, RopeStyle::interleaved});
    s.has_tables = random.one_in(2), s.furthest = 40, s.key_norm = random.one_in(3);
    s.seed = random.bits();
    SCOPED_TRACE(::testing::Message() << s);
    const AppendCase c(s);
    const std::vector<std::byte> want = c.expected();
    c.reset();
    const Status status = kv_append(random.pick(contexts), c.args());
    ASSERT_TRUE(status.ok()) << status.message();
    ASSERT_TRUE(c.outputs() == want);
    ASSERT_TRUE(c.inputs_intact());
  }
}

/// The same elements in rows, with gaps, and in tiles.
struct TwoLayouts {
  Shape shape;
  DataType type;
  std::vector<std::byte> rows, tiles;

  TwoLayouts(const Shape& of, DataType dtype, Random& random) : shape(of), type(dtype) {
    rows.assign(static_cast<std::size_t>(elements(row_width() + 3) * bytes()), std::byte{0x5a});
    tiles.assign(static_cast<std::size_t>(elements(width()) * bytes()), std::byte{0});
    for (std::int64_t p = 0; p < shape[0]; ++p)
      for (std::int64_t h = 0; h < shape[1]; ++h)
        for (std::int64_t j = 0; j < shape[2]; ++j)
          for (std::int64_t d = 0; d < shape[3]; ++d)
            for (std::int64_t i = 0; i < bytes(); ++i) {
              const auto byte = static_cast<std::byte>(random.between(0, 255));
              rows[at_row(p, h, j, d) + static_cast<std::size_t>(i)] = byte;
              tiles[at_tile(p, h, j, d) + static_cast<std::size_t>(i)] = byte;
            }
  }
  std::int64_t bytes() const { return type == DataType::f32 ? 4 : 2; }
  std::int64_t width() const { return tile_width(bytes(), shape[3]); }
  std::int64_t row_width() const { return shape[3]; }
  std::int64_t elements(std::int64_t width_of_key) const {
    return shape[0] * shape[1] * shape[2] * width_of_key;
  }
  /// [pages, page_size, heads, dim + 3]
  std::size_t at_row(std::int64_t p, std::int64_t h, std::int64_t j, std::int64_t d) const {
    return static_cast<std::size_t>((((p * shape[2] + j) * shape[1] + h) * (shape[3] + 3) + d) * bytes());
  }
  std::size_t at_tile(std::int64_t p, std::int64_t h, std::int64_t j, std::int64_t d) const {
    return static_cast<std::size_t>(
        ((p * shape[1] + h) * shape[2] * width() + place_in_tiles(bytes(), shape[3], j, d)) * bytes());
  }
  template <class View>
  View rows_view(void* data) const {
    const std::int64_t padded = shape[3] + 3;
    return {data, shape, {shape[2] * shape[1] * padded, padded, shape[1] * padded, 1}, type};
  }
  template <class View>
  View tiles_view(void* data) const {
    return {data, shape, {shape[1] * shape[2] * width(), shape[2] * width(), width(), 1}, type};
  }
};

TEST_P(KeyPages, PagesArePackedAndUnpackedBitForBit) {
  for (const std::int64_t dim : {1, 7, 40, 64, 127, 128, 576}) {
    for (const DataType type : kPageTypes) {
      const Shape shape = {random.between(1, 5), random.between(1, 3), random.pick({16, 32, 80, 512}), dim};
      const TwoLayouts x(shape, type, random);
      SCOPED_TRACE(::testing::Message() << "pages " << shape[0] << " heads " << shape[1] << " keys "
                                        << shape[2] << " dim " << dim << " type " << static_cast<int>(type));
      std::vector<std::byte> rows = x.rows, tiles = x.tiles, got(tiles.size(), std::byte{0xff});
      const Context& context = random.pick(contexts);
      ASSERT_TRUE(
          pack_key_pages(context, x.rows_view<ConstTensor>(rows.data()), x.tiles_view<Tensor>(got.data()))
              .ok());
      ASSERT_TRUE(got == x.tiles);
      std::vector<std::byte> back(rows.size(), std::byte{0x5a});
      ASSERT_TRUE(
          unpack_key_pages(context, x.tiles_view<ConstTensor>(tiles.data()), x.rows_view<Tensor>(back.data()))
              .ok());
      ASSERT_TRUE(back == x.rows);
    }
  }
}

// Threads append to columns of the same tiles, a token each at a time.
TEST_P(KeyPages, ThreadsFillATileTogether) {
  constexpr std::int64_t kHeads = 2, kDim = 31, kPage = 32, kTokens = 64;
  const Context& context = contexts.back();
  for (const DataType type : {DataType::f32, DataType::bf16}) {
    const std::int64_t bytes = type == DataType::f32 ? 4 : 2, width = tile_width(bytes, kDim);
    std::vector<float> key(kTokens * kHeads * kDim), value(kTokens * kHeads);
    for (float& x : key) x = random.normal();
    std::vector<std::byte> caches[2];
    std::vector<float> values(kTokens * kHeads);
    const auto append = [&](std::vector<std::byte>& cache, std::int64_t first, std::int64_t count) {
      std::vector<std::int64_t> slots;
      for (std::int64_t t = first; t < first + count; ++t) slots.push_back(t * 7 % kTokens);
      KvAppendArgs args;
      args.key = ConstTensor::bshd(key.data() + first * kHeads * kDim, 1, count, kHeads, kDim);
      args.value = ConstTensor::bshd(value.data() + first * kHeads, 1, count, kHeads, 1);
      args.key_cache = {cache.data(),
                        {kTokens / kPage, kHeads, kPage, kDim},
                        {kHeads * kPage * width, kPage * width, width, 1},
                        type};
      args.value_cache = Tensor::bshd(values.data(), kTokens / kPage, kPage, kHeads, 1);
      args.slot_mapping = slots.data();
      args.key_layout = KeyLayout::tiles_of_16;
      return kv_append(context, args).ok();
    };
    for (auto& cache : caches) cache.assign(static_cast<std::size_t>(kTokens * kHeads * width * bytes), {});
    ASSERT_TRUE(append(caches[0], 0, kTokens));
    std::atomic<int> failed{0};
    std::vector<std::thread> callers;
    for (std::int64_t n = 0; n < 8; ++n)
      callers.emplace_back([&, n] {
        for (std::int64_t t = n; t < kTokens; t += 8) failed += !append(caches[1], t, 1);
      });
    for (std::thread& caller : callers) caller.join();
    ASSERT_EQ(failed, 0);
    ASSERT_TRUE(caches[0] == caches[1]);
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, KeyPages, ::testing::ValuesIn(swept_isas()), StringName());

struct KeyPagesErrors : testing::Test {
  Context context = context_of("", "serial");
};

TEST_F(KeyPagesErrors, AppendNamesWhatIsWrong) {
  AppendShape s;
  s.key_tiles = true, s.head_dim = 7, s.key_cache_type = DataType::f16;
  const AppendCase c(s);
  const auto expect = [&](const KvAppendArgs& args, const std::string& message) {
    c.reset();
    const std::vector<std::byte> before = c.outputs();
    const Status status = kv_append(context, args);
    EXPECT_EQ(status.code(), Code::invalid_argument);
    EXPECT_EQ(status.message(), message);
    EXPECT_TRUE(c.outputs() == before);
  };
  const std::string why = ", as key_layout is tiles_of_16 (1)";
  KvAppendArgs args = c.args();
  args.key_layout = static_cast<KeyLayout>(9);
  expect(args, "key_layout is 9; expected rows (0) or tiles_of_16 (1)");
  args = c.args();
  args.key_cache.shape[2] = args.value_cache.shape[2] = 8;
  expect(args, "key_cache.shape[2] (seq) is 8; expected a multiple of 16" + why);
  args = c.args();
  args.key_cache.stride[2] = 7;
  expect(args, "key_cache.stride[2] (seq) is 7; expected 8 (head_dim + 1)" + why);
  args = c.args();
  args.key_cache.stride[1] = 127;
  expect(args,
         "key_cache.stride[1] (heads) is 127; expected at least 128, the elements of a page's head" + why);
}

TEST_F(KeyPagesErrors, PackingNamesWhatIsWrong) {
  Random random{test_seed(7)};
  TwoLayouts x({2, 2, 32, 7}, DataType::f16, random);
  const std::vector<std::byte> before = x.tiles;
  const auto expect = [&](const ConstTensor& rows, const Tensor& tiles, const std::string& message) {
    const Status status = pack_key_pages(context, rows, tiles);
    EXPECT_EQ(status.code(), Code::invalid_argument);
    EXPECT_EQ(status.message(), message);
    EXPECT_TRUE(x.tiles == before);
  };
  const auto rows = x.rows_view<ConstTensor>(x.rows.data());
  const auto tiles = x.tiles_view<Tensor>(x.tiles.data());
  const std::string why = ", as key_layout is tiles_of_16 (1)";
  Tensor to = tiles;
  to.dtype = DataType::bf16;
  expect(rows, to, "tiles.dtype is bf16; expected f16, as in rows");
  to = tiles, to.shape[0] = 1;
  expect(rows, to, "tiles.shape[0] (batch) is 1; expected 2, as in rows");
  to = tiles, to.stride[2] = 7;
  expect(rows, to, "tiles.stride[2] (seq) is 7; expected 8 (head_dim + 1)" + why);
  to = tiles, to.data = nullptr;
  expect(rows, to, "tiles.data is null; expected a tensor");
  ConstTensor from = rows;
  from.shape[3] = to.shape[3] = 0;
  to = tiles, to.shape[3] = 0;
  expect(from, to, "rows.shape[3] (head_dim) is 0; expected 1..576");
  from = rows, from.shape[2] = 24;
  to = tiles, to.shape[2] = 24;
  expect(from, to, "tiles.shape[2] (seq) is 24; expected a multiple of 16" + why);
  // The tile's last element, beside the odd dim, is where the rows begin.
  std::vector<std::byte> memory(x.rows.size() + x.tiles.size());
  to = x.tiles_view<Tensor>(memory.data());
  from = x.rows_view<ConstTensor>(memory.data() + x.tiles.size() - 2);
  from.stride = {32 * 14, 7, 14, 1};
  const Status status = pack_key_pages(context, from, to);
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_NE(status.message().find("expected memory apart from rows"), std::string::npos) << status.message();
  const Status unpacked = unpack_key_pages(Context(), x.tiles_view<ConstTensor>(x.tiles.data()),
                                           x.rows_view<Tensor>(x.rows.data()));
  EXPECT_EQ(unpacked.code(), Code::invalid_argument);
  Tensor out = x.rows_view<Tensor>(x.rows.data());
  out.stride[2] = 0;
  EXPECT_NE(unpack_key_pages(context, x.tiles_view<ConstTensor>(x.tiles.data()), out)
                .message()
                .find("rows.stride[2] (seq) is 0"),
            std::string::npos);
}

TEST_F(KeyPagesErrors, NothingToPackIsNoError) {
  Tensor tiles{nullptr, {0, 2, 32, 7}, {0, 0, 0, 1}, DataType::f16};
  EXPECT_TRUE(pack_key_pages(context, {nullptr, {0, 2, 32, 7}, {0, 0, 0, 1}, DataType::f16}, tiles).ok());
}

}  // namespace
}  // namespace kumiko::test
