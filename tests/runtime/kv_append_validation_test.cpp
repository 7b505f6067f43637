// SPDX-License-Identifier: Apache-2.0
// Each kind of argument that kv_append refuses: the error names it, and nothing is written.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "tests/runtime/append_case.h"
#include "tests/runtime/contexts.h"

namespace kumiko::test {
namespace {

AppendShape some_shape() {
  AppendShape s;
  s.batch = 2, s.seq = 3, s.rotary_dim = 16, s.has_tables = true, s.furthest = 9;
  s.key_norm = s.query_norm = true;
  return s;
}

struct KvAppendErrors : ::testing::Test {
  Context context = context_of("", "serial");
  std::vector<std::int32_t> domains;

  void expect(const AppendCase& c, const KvAppendArgs& args, const std::string& start) const {
    c.reset();
    const std::vector<std::byte> before = c.outputs();
    const Status status = kv_append(context, args);
    EXPECT_EQ(status.code(), Code::invalid_argument) << start;
    EXPECT_EQ(status.message().substr(0, start.size()), start) << status.message();
    EXPECT_TRUE(c.outputs() == before) << start;
  }
  void refused(const std::function<void(KvAppendArgs&)>& change, const std::string& start) const {
    const AppendCase c(some_shape());
    KvAppendArgs args = c.args();
    change(args);
    expect(c, args, start);
  }
};

TEST_F(KvAppendErrors, Shapes) {
  refused([](auto& a) { a.key.shape[3] = 577; }, "key.shape[3] (head_dim) is 577; expected 1..576");
  refused([](auto& a) { a.value.shape[3] = 0; }, "value.shape[3] (head_dim) is 0");
  refused([](auto& a) { a.value.shape[0] = 1; }, "value.shape[0] (batch) is 1; expected 2, as in key");
  refused([](auto& a) { a.value.shape[1] = 1; }, "value.shape[1] (heads) is 1");
  refused([](auto& a) { a.value.shape[2] = 2; }, "value.shape[2] (seq) is 2");
  refused([](auto& a) { a.key_cache.shape[1] = 1; },
          "key_cache.shape[1] (heads) is 1; expected 2, as in key");
  refused([](auto& a) { a.key_cache.shape[3] = 23; }, "key_cache.shape[3] (head_dim) is 23");
  refused([](auto& a) { a.value_cache.shape[1] = 1; }, "value_cache.shape[1] (heads) is 1");
  refused([](auto& a) { a.value_cache.shape[3] = 15; }, "value_cache.shape[3] (head_dim) is 15");
  refused([](auto& a) { a.value_cache.shape[0] = 1; },
          "value_cache.shape[0] (batch) is 1; expected 2, as in key_cache");
  refused([](auto& a) { a.value_cache.shape[2] = 15; }, "value_cache.shape[2] (seq) is 15");
  refused([](auto& a) { a.query.shape[0] = 1; }, "query.shape[0] (batch) is 1; expected 2, as in key");
  refused([](auto& a) { a.query.shape[2] = 2; }, "query.shape[2] (seq) is 2");
  refused([](auto& a) { a.query.shape[3] = 23; }, "query.shape[3] (head_dim) is 23");
  for (const std::size_t i : {0u, 1u, 2u, 3u})
    refused([i](auto& a) { --a.query_out.shape[i]; }, "query_out.shape[" + std::to_string(i) + "]");
  refused(
      [](auto& a) {
        a.key.shape[0] = a.value.shape[0] = 65536, a.key.shape[2] = a.value.shape[2] = 65536,
        a.key.stride = a.value.stride = {0, 0, 0, 1};
      },
      "key.shape[0] * key.shape[2] (tokens) is 4294967296; expected 0..2147483647");
}

TEST_F(KvAppendErrors, TypesAndStrides) {
  refused([](auto& a) { a.key.dtype = DataType::i32; }, "key.dtype is i32; expected f32, bf16 or f16");
  refused([](auto& a) { a.value.dtype = DataType::boolean; },
          "value.dtype is boolean; expected f32, bf16 or f16");
  refused([](auto& a) { a.key_cache.dtype = DataType::i32; },
          "key_cache.dtype is i32; expected f32, bf16 or f16");
  refused([](auto& a) { a.value_cache.dtype = DataType::i32; },
          "value_cache.dtype is i32; expected f32, bf16 or f16");
  refused([](auto& a) { a.query.dtype = DataType::i32; }, "query.dtype is i32; expected f32, bf16 or f16");
  refused([](auto& a) { a.query_out.dtype = DataType::i32; },
          "query_out.dtype is i32; expected f32, bf16 or f16");
  refused([](auto& a) { a.key.stride[3] = 2; }, "key.stride[3] (head_dim) is 2; expected 1");
  refused([](auto& a) { a.key.stride[2] = -1; }, "key.stride[2] (seq) is -1");
  refused([](auto& a) { a.key_cache.stride[2] = 0; },
          "key_cache.stride[2] (seq) is 0; expected a stride that keeps");
  refused([](auto& a) { a.value_cache.stride[0] = 1; }, "value_cache.stride[");
  refused([](auto& a) { a.query_out.stride[1] = 0; }, "query_out.stride[1] (heads) is 0");
}

TEST_F(KvAppendErrors, Slots) {
  // 2 pages of 16.
  const auto with = [&](std::int64_t index, std::int64_t slot, const std::string& start) {
    const AppendCase c(some_shape());
    KvAppendArgs args = c.args();
    std::vector<std::int64_t> slots = {5, -1, 31, 0, 17, 8};
    slots[static_cast<std::size_t>(index)] = slot;
    args.slot_mapping = slots.data();
    expect(c, args, start);
  };
  with(0, 32, "slot_mapping[0] is 32; expected -1 or 0..31 (pages * page_size - 1)");
  with(5, -2, "slot_mapping[5] is -2; expected -1 or 0..31");
  with(3, INT64_MIN, "slot_mapping[3] is -9223372036854775808");
  with(3, INT64_MAX, "slot_mapping[3] is 9223372036854775807");
  with(4, 5, "slot_mapping[4] is 5; expected a slot of its own; slot_mapping[0] is the same");
  with(5, 17, "slot_mapping[5] is 17; expected a slot of its own; slot_mapping[4] is the same");
  refused([](auto& a) { a.slot_mapping = nullptr; }, "slot_mapping is null");
  AppendCase none(some_shape());
  KvAppendArgs args = none.args();
  const std::int64_t slots[] = {-1, -1, 3, -1, -1, -1};
  args.slot_mapping = slots;
  args.key_cache.shape[0] = args.value_cache.shape[0] = 0;
  expect(none, args, "slot_mapping[2] is 3; expected -1, as key_cache has no slots");
}

// Entries of pages that no token goes to are not read.
TEST_F(KvAppendErrors, PageDomains) {
  const std::int64_t slots[] = {5, -1, 6, 0, 7, 8};  // of 2 pages of 16
  const auto with = [&](const AppendCase& c, std::int32_t first, std::int32_t second) {
    KvAppendArgs args = c.args();
    args.slot_mapping = slots;
    domains = {first, second};
    args.page_domains = domains.data();
    return args;
  };
  const AppendCase c(some_shape());
  expect(c, with(c, 1, 0), "page_domains[0] is 1; expected -1 or a domain below 1");
  expect(c, with(c, -2, 0), "page_domains[0] is -2; expected -1 or a domain below 1");
  for (const std::int32_t domain : {-1, 0}) EXPECT_TRUE(kv_append(context, with(c, domain, 1000)).ok());
}

// A table of many tokens, whose slots meet in it.
TEST_F(KvAppendErrors, OneRepeatedSlotAmongManyTokens) {
  constexpr std::int64_t kTokens = 3000;
  std::vector<float> in(kTokens), out(2 * kTokens);
  std::vector<std::int64_t> slots;
  for (std::int64_t t = 0; t < kTokens; ++t) slots.push_back(t * 17 % kTokens);
  KvAppendArgs args;
  args.key = args.value = ConstTensor::bhsd(in.data(), 1, 1, kTokens, 1);
  args.key_cache = Tensor::bhsd(out.data(), kTokens, 1, 1, 1);
  args.value_cache = Tensor::bhsd(out.data() + kTokens, kTokens, 1, 1, 1);
  args.slot_mapping = slots.data();
  EXPECT_TRUE(kv_append(context, args).ok());
  slots[2999] = slots[1234];
  EXPECT_EQ(kv_append(context, args).message(),
            "slot_mapping[2999] is " + std::to_string(slots[1234]) +
                "; expected a slot of its own; slot_mapping[1234] is the same");
}

TEST_F(KvAppendErrors, Rotation) {
  refused([](auto& a) { a.rope_style = static_cast<RopeStyle>(2); }, "rope_style is 2; expected neox (0) or");
  for (const std::int64_t dim : {-2, 3, 26})
    refused([dim](auto& a) { a.rotary_dim = dim; },
            "rotary_dim is " + std::to_string(dim) + "; expected an even number in 0..24 (head_dim)");
  refused([](auto& a) { a.rotary_dim = 0; }, "positions is given; expected null, as rotary_dim is 0");
  refused([](auto& a) { a.rotary_dim = 0, a.positions = nullptr; }, "rope_cos is given");
  refused([](auto& a) { a.rotary_dim = 0, a.positions = nullptr, a.rope_cos = nullptr; },
          "rope_sin is given");
  refused([](auto& a) { a.positions = nullptr; }, "positions is null");
  refused([](auto& a) { a.rope_cos = nullptr; }, "rope_cos is null; expected a table, as rope_sin is given");
  refused([](auto& a) { a.rope_sin = nullptr; }, "rope_sin is null");
  refused([](auto& a) { a.rope_positions = 0; }, "rope_positions is 0");
  refused([](auto& a) { a.rope_stride = 7; },
          "rope_stride is 7; expected 0, or at least rotary_dim / 2, which is 8");
  refused([](auto& a) { a.rope_stride = INT64_MAX; }, "rope_stride is 9223372036854775807");
  const std::int64_t far[6] = {0, 1, 2, 9, 10, 3}, before[6] = {0, -1, 2, 9, 8, 3};
  refused([&](auto& a) { a.positions = far; }, "positions[4] is 10; expected 0..9 (rope_positions - 1)");
  refused([&](auto& a) { a.positions = before; }, "positions[1] is -1");
  const auto computed = [&](const std::function<void(KvAppendArgs&)>& change, const std::string& start) {
    refused(
        [&](auto& a) { a.rope_cos = a.rope_sin = nullptr, a.rope_positions = a.rope_stride = 0, change(a); },
        start);
  };
  computed([](auto& a) { a.rope_positions = 1; }, "rope_positions is 1; expected 0");
  computed([](auto& a) { a.rope_stride = 1; }, "rope_stride is 1; expected 0");
  const double inf = std::numeric_limits<double>::infinity();
  for (const double bad : {0.0, -1.0, inf, std::nan("")}) {
    computed([bad](auto& a) { a.rope_theta = bad; }, "rope_theta is ");
    computed([bad](auto& a) { a.rope_scale = bad; }, "rope_scale is ");
  }
  const std::int64_t huge[6] = {0, 1, 2147483648, 0, 0, 0};
  computed([&](auto& a) { a.positions = huge; }, "positions[2] is 2147483648; expected 0..2147483647");
}

TEST_F(KvAppendErrors, NormsAndQueries) {
  for (const float eps : {-1e-6f, std::numeric_limits<float>::infinity(), std::nanf("")})
    refused([eps](auto& a) { a.norm_eps = eps; }, "norm_eps is ");
  refused([](auto& a) { a.query_out = {}; }, "query_out is null; expected a tensor, as query is given");
  refused([](auto& a) { a.query = {}; }, "query_out is given; expected null, as query is null");
  refused([](auto& a) { a.query = {}, a.query_out = {}; },
          "query_norm is given; expected null, as query is null");
}

TEST_F(KvAppendErrors, Pointers) {
  refused([](auto& a) { a.key.data = nullptr; }, "key.data is null");
  refused([](auto& a) { a.value.data = nullptr; }, "value.data is null");
  refused([](auto& a) { a.key_cache.data = nullptr; }, "key_cache.data is null");
  refused([](auto& a) { a.value_cache.data = nullptr; }, "value_cache.data is null");
  refused([](auto& a) { a.query.data = nullptr; }, "query.data is null");
  refused([](auto& a) { a.query_out.data = nullptr; }, "query_out.data is null");
  refused([](auto& a) { a.key.data = static_cast<const char*>(a.key.data) + 1; }, "key.data is ");
  refused([](auto& a) { a.key_cache.data = static_cast<char*>(a.key_cache.data) + 2; }, "key_cache.data is ");
}

TEST_F(KvAppendErrors, MemoryThatOverlaps) {
  refused([](auto& a) { a.value_cache.data = a.key_cache.data; }, "value_cache.data is ");
  refused([](auto& a) { a.query_out.data = a.key_cache.data; }, "query_out.data is ");
  refused([](auto& a) { a.query_out.data = const_cast<void*>(a.query.data); }, "query_out.data is ");
  const auto input = [&](const char* name, const std::function<void(KvAppendArgs&, void*)>& place) {
    for (const bool values : {false, true}) {
      const AppendCase c(some_shape());
      KvAppendArgs args = c.args();
      Tensor& cache = values ? args.value_cache : args.key_cache;
      place(args, cache.data);
      const Status status = kv_append(context, args);
      EXPECT_EQ(status.code(), Code::invalid_argument) << name;
      EXPECT_NE(status.message().find(std::string("memory apart from ") + name), std::string::npos)
          << status.message();
      EXPECT_EQ(status.message().rfind(values ? "value_cache.data" : "key_cache.data", 0), 0u)
          << status.message();
    }
  };
  const auto floats = [](void* p) { return static_cast<const float*>(p); };
  input("key", [](auto& a, void* p) { a.key.data = p; });
  input("value", [](auto& a, void* p) { a.value.data = p; });
  input("query", [](auto& a, void* p) { a.query.data = p; });
  input("key_norm", [&](auto& a, void* p) { a.key_norm = floats(p); });
  input("query_norm", [&](auto& a, void* p) { a.query_norm = floats(p); });
  input("rope_cos", [&](auto& a, void* p) { a.rope_cos = floats(p); });
  input("rope_sin", [&](auto& a, void* p) { a.rope_sin = floats(p); });
  // Numbers that are valid where they lie: the poison would be refused first.
  const auto zeros = [](void* p) { return std::fill_n(static_cast<std::int64_t*>(p), 6, 0); };
  input("positions", [&](auto& a, void* p) { zeros(p), a.positions = static_cast<std::int64_t*>(p); });
  input("page_domains", [&](auto& a, void* p) { zeros(p), a.page_domains = static_cast<std::int32_t*>(p); });
  input("slot_mapping", [](auto& a, void* p) {
    std::fill_n(static_cast<std::int64_t*>(p), 6, -1), a.slot_mapping = static_cast<std::int64_t*>(p);
  });
}

TEST_F(KvAppendErrors, AnEmptyContext) {
  const AppendCase c(some_shape());
  const Status status = kv_append(Context(), c.args());
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_NE(status.message().find("context"), std::string::npos) << status.message();
}

}  // namespace
}  // namespace kumiko::test
