// SPDX-License-Identifier: Apache-2.0
// kv_append: every byte of the caches and queries by a scalar model, on every ISA, executor and number of
// threads.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <thread>

#include "tests/runtime/append_case.h"
#include "tests/runtime/contexts.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

constexpr DataType kTypes[] = {DataType::f32, DataType::bf16, DataType::f16};

struct KvAppend : ::testing::TestWithParam<std::string> {
  std::vector<Context> contexts = contexts_of(GetParam());
  Random random{test_seed(77)};

  static std::vector<Context> contexts_of(const std::string& isa) {
    std::vector<Context> all;
    for (const std::string& executor : kAllExecutors) {
      for (const int threads : {1, 2, 3, 4}) {
        ContextOptions options;
        options.isa = isa, options.executor = executor;
        options.topology = flat_machine(threads);
        if (executor != "serial" || threads == 1) all.push_back(context_of(options));
      }
    }
    return all;
  }

  AppendShape shape() {
    AppendShape s;
    s.batch = random.between(1, 3), s.seq = random.pick({1, 2, 5, 17, 40});
    s.kv_heads = random.between(1, 3), s.q_heads = s.kv_heads * random.between(0, 3);
    s.head_dim = random.pick({1, 2, 8, 24, 40, 64, 72, 80, 96, 112, 128, 256, 576});
    s.v_head_dim = random.pick({1, 7, 40, 64, 128, 512});
    s.page_size = random.pick({1, 2, 3, 16, 17, 64, 128, 512});
    for (DataType* type : {&s.key_type, &s.key_cache_type, &s.value_type, &s.value_cache_type, &s.query_type,
                           &s.query_out_type})
      *type = kTypes[random.between(0, 2)];
    s.input_layout = random.pick({Layout::bhsd, Layout::bshd, Layout::sbhd, Layout::padded});
    s.cache_layout = random.pick({Layout::bhsd, Layout::bshd, Layout::padded, Layout::padded_bshd});
    s.is_joint = random.one_in(3), s.in_place = random.one_in(3), s.skips = random.one_in(2);
    if (s.is_joint) s.v_head_dim = s.head_dim, s.value_cache_type = s.key_cache_type;
    if (s.in_place) s.query_out_type = s.query_type;
    if (s.head_dim >= 2 && !random.one_in(4))
      s.rotary_dim = random.one_in(2) ? s.head_dim : 2 * random.between(1, s.head_dim / 2);
    s.style = random.pick({RopeStyle::neox, RopeStyle::interleaved});
    s.has_tables = random.one_in(2);
    s.furthest = s.has_tables ? random.between(0, 40) : random.pick({0, 100, 1000000, 2147483647});
    s.key_norm = random.one_in(2), s.query_norm = s.q_heads > 0 && random.one_in(2);
    s.seed = random.bits();
    return s;
  }
};

TEST_P(KvAppend, EveryByteIsThatOfTheModel) {
  for (int repeat = 0; repeat < thinned(250, 80, 20); ++repeat) {
    const AppendShape s = shape();
    SCOPED_TRACE(::testing::Message() << s);
    const AppendCase c(s);
    const std::vector<std::byte> want = c.expected();
    for (int run = 0; run < 2; ++run) {
      c.reset();
      const Status status = kv_append(random.pick(contexts), c.args());
      ASSERT_TRUE(status.ok()) << status.message();
      ASSERT_TRUE(c.outputs() == want);
      ASSERT_TRUE(c.inputs_intact());
    }
  }
}

TEST_P(KvAppend, TheSameBytesForEveryExecutorAndNumberOfThreads) {
  AppendShape s;
  s.batch = 2, s.seq = 150, s.kv_heads = 2, s.q_heads = 6, s.head_dim = 128, s.v_head_dim = 128;
  s.key_cache_type = DataType::bf16, s.rotary_dim = 128, s.key_norm = s.query_norm = s.skips = true;
  const AppendCase c(s);
  const std::vector<std::byte> want = c.expected();
  for (const Context& context : contexts) {
    c.reset();
    ASSERT_TRUE(kv_append(context, c.args()).ok());
    ASSERT_TRUE(c.outputs() == want) << context.describe();
  }
}

TEST_P(KvAppend, CallersAtTheSameTime) {
  std::vector<AppendCase> cases;
  std::vector<std::vector<std::byte>> want;
  for (std::uint64_t n = 0; n < 4; ++n) {
    AppendShape s;
    s.seq = 60, s.head_dim = 64, s.rotary_dim = 64, s.seed = n;
    s.style = n % 2 ? RopeStyle::neox : RopeStyle::interleaved;
    want.push_back(cases.emplace_back(s).expected());
  }
  for (const Context& context : contexts) {
    std::vector<std::thread> callers;
    std::atomic<int> wrong{0};
    for (std::size_t n = 0; n < cases.size(); ++n) {
      callers.emplace_back([&, n] {
        for (int repeat = 0; repeat < thinned(8, 4, 2); ++repeat) {
          cases[n].reset();
          wrong += !kv_append(context, cases[n].args()).ok() || cases[n].outputs() != want[n];
        }
      });
    }
    for (std::thread& caller : callers) caller.join();
    ASSERT_EQ(wrong, 0) << context.describe();
  }
}

// A prompt written in chunks of any length gives the bytes of one call.
TEST_P(KvAppend, ChunksGiveTheBytesOfOneCall) {
  constexpr std::int64_t kTokens = 45, kHeads = 2, kDim = 40, kPage = 16, kPages = 5;
  std::vector<float> key(kTokens * kHeads * kDim), value(key.size());
  for (auto* x : {&key, &value})
    for (float& v : *x) v = random.normal();
  std::vector<std::int64_t> slots, positions;
  for (std::int64_t t = 0; t < kTokens; ++t)
    slots.push_back((t / kPage * 3 + 1) % kPages * kPage + t % kPage);
  for (std::int64_t t = 0; t < kTokens; ++t) positions.push_back(t);
  std::vector<std::uint16_t> caches[2][2];
  const auto append = [&](std::vector<std::uint16_t>(&cache)[2], std::int64_t first, std::int64_t count) {
    KvAppendArgs args;
    const std::int64_t at = first * kHeads * kDim;
    args.key = ConstTensor::bshd(key.data() + at, 1, count, kHeads, kDim);
    args.value = ConstTensor::bshd(value.data() + at, 1, count, kHeads, kDim);
    args.key_cache = Tensor::bshd(cache[0].data(), kPages, kPage, kHeads, kDim, DataType::bf16);
    args.value_cache = Tensor::bshd(cache[1].data(), kPages, kPage, kHeads, kDim, DataType::bf16);
    args.slot_mapping = slots.data() + first, args.positions = positions.data() + first;
    args.rotary_dim = 32;
    const Status status = kv_append(random.pick(contexts), args);
    ASSERT_TRUE(status.ok()) << status.message();
  };
  for (auto& cache : caches)
    for (auto& half : cache) half.assign(kPages * kPage * kHeads * kDim, 0);
  append(caches[0], 0, kTokens);
  for (const auto& [first, count] : {std::pair{0, 16}, {16, 1}, {17, 20}, {37, 8}})
    append(caches[1], first, count);
  EXPECT_EQ(caches[0][0], caches[1][0]);
  EXPECT_EQ(caches[0][1], caches[1][1]);
}

TEST_P(KvAppend, NoTokensOrNoHeadsWriteNothing) {
  for (const auto size : {&AppendShape::seq, &AppendShape::batch, &AppendShape::kv_heads}) {
    AppendShape s;
    s.*size = 0;
    s.rotary_dim = 8;
    const AppendCase c(s);
    const std::vector<std::byte> want = c.expected();
    c.reset();
    KvAppendArgs args = c.args();
    if (s.kv_heads ==
        0)  // Nothing is computed with the strides of an empty tensor (UndefinedBehaviorSanitizer).
      args.key.stride = args.value.stride = {INT64_MAX, INT64_MAX, INT64_MAX, 1};
    const Status status = kv_append(contexts[0], args);
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(c.outputs(), want);
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, KvAppend, ::testing::ValuesIn(swept_isas()), StringName());

// The angles are computed in f64: at position 10^6 and beyond a cosine is off by half a unit of f32, not by
// the 0.03 radians that an f32 angle is.
TEST(KvAppendAngles, AreThoseOfALongDoubleAtLargePositions) {
  constexpr std::int64_t kDim = 128;
  const Context context = context_of("", "serial");
  for (const std::int64_t position :
       {std::int64_t{1}, std::int64_t{4095}, std::int64_t{1000000}, std::int64_t{2147483647}}) {
    std::vector<float> key(kDim, 0.0f), value(kDim), cache(kDim), values(kDim);
    std::fill_n(key.begin(), kDim / 2, 1.0f);  // (1, 0) becomes (cos, sin)
    const std::int64_t slot = 0;
    KvAppendArgs args;
    args.key = ConstTensor::bhsd(key.data(), 1, 1, 1, kDim);
    args.value = ConstTensor::bhsd(value.data(), 1, 1, 1, kDim);
    args.key_cache = Tensor::bhsd(cache.data(), 1, 1, 1, kDim);
    args.value_cache = Tensor::bhsd(values.data(), 1, 1, 1, kDim);
    args.slot_mapping = &slot, args.positions = &position, args.rotary_dim = kDim;
    args.rope_theta = 500000.0;
    ASSERT_TRUE(kv_append(context, args).ok());
    for (std::int64_t i = 0; i < kDim / 2; ++i) {
      const long double angle =
          static_cast<long double>(position) *
          std::pow(500000.0L, -2.0L * static_cast<long double>(i) / static_cast<long double>(kDim));
      // Half a unit of the result, and that of the f64 angle: 2^31 * 2^-52.
      const double slack = static_cast<double>(position) * 0x1p-51 + 0x1p-25;
      ASSERT_NEAR(cache[static_cast<std::size_t>(i)], static_cast<double>(std::cos(angle)), slack) << i;
      ASSERT_NEAR(cache[static_cast<std::size_t>(i + kDim / 2)], static_cast<double>(std::sin(angle)), slack)
          << i;
    }
  }
}

}  // namespace
}  // namespace kumiko::test
