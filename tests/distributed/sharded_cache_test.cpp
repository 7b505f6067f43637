// SPDX-License-Identifier: Apache-2.0
// A cache spread over ranks by splits: all ranks get the outputs of one machine, bit for bit.
#include <algorithm>
#include <array>
#include <limits>
#include <ostream>

#include "tests/distributed/memory.h"
#include "tests/distributed/ranks.h"

namespace kumiko::test {
namespace {

struct Shape {
  std::vector<distributed::SequenceLengths> sequences;
  std::int64_t q_heads = 4, kv_heads = 2, head_dim = 16, v_head_dim = 24, page_keys = 128;
  DataType type = DataType::f32, out_type = DataType::f32;
  bool is_int8 = false, rows_first = false, bias = false, mask = false;
  bool is_causal = true;
  std::int64_t window_left = -1;
  float softcap = 0.0f;
  bool sinks = false, alibi = false, page_lists = false;
  bool lse = true, row_max = false;
  std::uint64_t seed = 1;
};
std::ostream& operator<<(std::ostream& os, const Shape& s) {
  for (const auto& [q, k] : s.sequences) os << q << "/" << k << " ";
  return os << "heads " << s.q_heads << "/" << s.kv_heads << " dims " << s.head_dim << "/" << s.v_head_dim
            << " pages of " << s.page_keys << " type " << static_cast<int>(s.type) << " int8 " << s.is_int8
            << " bias " << s.bias << " mask " << s.mask << " causal " << s.is_causal << " window "
            << s.window_left << " sinks " << s.sinks << " lists " << s.page_lists << " seed " << s.seed;
}

/// A step of a server on every rank alike, but for its pages: the whole pool, and this rank's keys alone.
class Step {
 public:
  explicit Step(const Shape& shape) : s_(shape) {
    Random random(s_.seed);
    std::int64_t queries = 0, pages = 0;
    for (const auto& [q_len, kv_len] : s_.sequences) {
      q_ends_.push_back(static_cast<std::int32_t>(queries += q_len));
      lengths_.push_back(static_cast<std::int32_t>(kv_len));
      first_page_.push_back(static_cast<std::int32_t>(pages));
      const std::int64_t count = (kv_len + s_.page_keys - 1) / s_.page_keys;
      max_pages_ = std::max(max_pages_, count);
      pages += count;
    }
    first_page_.push_back(static_cast<std::int32_t>(pages));
    const auto make = [&](std::int64_t batch, std::int64_t heads, std::int64_t rows, std::int64_t dim,
                          DataType type) {
      Memory memory(batch, heads, rows, dim, type, s_.rows_first);
      memory.draw(random);
      return memory;
    };
    const DataType qk = s_.is_int8 ? DataType::i8 : s_.type;
    q_ = make(1, s_.q_heads, queries, s_.head_dim, qk);
    q_scale_ = make(1, s_.q_heads, queries, 1, DataType::f32);
    bias_ = make(1, s_.q_heads, queries, max_pages_ * s_.page_keys, DataType::f32);
    mask_ = make(1, s_.q_heads, queries, max_pages_ * s_.page_keys, DataType::boolean);
    all_.k = make(pages, s_.kv_heads, s_.page_keys, s_.head_dim, qk);
    all_.v = make(pages, s_.kv_heads, s_.page_keys, s_.v_head_dim, s_.type);
    all_.k_scale = make(pages, s_.kv_heads, s_.page_keys, 1, DataType::f32);
    for (std::int64_t h = 0; h < s_.q_heads; ++h) sinks_.push_back(random.normal());
    own_ = all_;
    spoil_others(random, pages);
    for (Output* output : {&whole_, &mine}) {
      output->out = Memory(1, s_.q_heads, queries, s_.v_head_dim, s_.out_type, !s_.rows_first);
      output->lse = output->row_max = Memory(1, s_.q_heads, queries, 1, DataType::f32, s_.rows_first);
      output->poison();
    }
  }

  AttentionArgs whole() { return args(all_, table_, &whole_); }
  AttentionArgs own() { return args(own_, own_table_, &mine); }
  ::testing::AssertionResult is_right() {
    if (mine == whole_) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << "other bits";
  }

  struct Output {
    Memory out, lse, row_max;
    void poison() {
      for (Memory* memory : {&out, &lse, &row_max}) memory->poison();
    }
    bool is_poisoned() const { return out.is_poisoned() && lse.is_poisoned() && row_max.is_poisoned(); }
    bool operator==(const Output& other) const {
      return out.same_bytes(other.out) && lse.same_bytes(other.lse) && row_max.same_bytes(other.row_max);
    }
  };
  Output mine;

 private:
  struct Pool {
    Memory k, v, k_scale;
  };
  AttentionArgs args(Pool& pool, const std::vector<std::int32_t>& table, Output* output) {
    AttentionArgs a;
    a.q = q_.input(), a.k = pool.k.input(), a.v = pool.v.input(), a.out = output->out.output();
    const auto scale = [](Memory& memory) {
      const ConstTensor view = memory.input();
      return ScaleView{static_cast<const float*>(view.data),
                       {view.stride[0], view.stride[1], view.stride[2]}};
    };
    if (s_.is_int8) a.q_scale = scale(q_scale_), a.k_scale = scale(pool.k_scale);
    if (s_.bias) a.bias = bias_.input();
    if (s_.mask) a.mask = mask_.input();
    const auto lse = [](Memory& memory) {
      const Tensor view = memory.output();
      return LseView{static_cast<float*>(view.data), {view.stride[0], view.stride[1], view.stride[2]}};
    };
    if (s_.lse) a.lse = lse(output->lse);
    if (s_.row_max) a.row_max = lse(output->row_max);
    a.cu_seqlens_q = q_ends_.data(), a.num_sequences = std::ssize(lengths_);
    a.seqused_k = lengths_.data();
    a.block_table = table.data(), a.max_pages = max_pages_;
    if (s_.page_lists) a.kv_indptr = first_page_.data();
    a.is_causal = s_.is_causal, a.window_left = s_.window_left, a.softcap = s_.softcap;
    if (s_.sinks) a.sinks = sinks_.data();
    if (s_.alibi) a.alibi_slopes = sinks_.data();
    return a;
  }
  /// In this rank's pool, NaN for every key of another rank, and no page that has only such keys.
  void spoil_others(Random& random, std::int64_t pages) {
    std::vector<std::int32_t> order;
    for (std::int32_t page = 0; page < pages; ++page) order.push_back(page);
    const std::size_t columns = static_cast<std::size_t>(max_pages_);
    table_.assign(std::max<std::size_t>(s_.sequences.size() * columns, 1), -3);
    own_table_ = table_;
    for (std::size_t b = 0; b < s_.sequences.size(); ++b) {
      for (std::int32_t page = first_page_[b]; page < first_page_[b + 1]; ++page) {
        const std::int64_t first = (page - first_page_[b]) * s_.page_keys;
        bool is_own = false;
        for (std::int64_t i = 0; i < s_.page_keys; ++i) {
          if ((first + i) / 512 % world_size() == world_rank() && first + i < lengths_[b]) {
            is_own = true;
            continue;
          }
          for (std::int64_t h = 0; h < s_.kv_heads; ++h) {
            for (Memory* memory : {&own_.k, &own_.v, &own_.k_scale})
              std::memset(memory->row(page, h, i), 0xFF, memory->row_bytes());
          }
        }
        const std::size_t at = s_.page_lists ? static_cast<std::size_t>(page)
                                             : b * columns + static_cast<std::size_t>(page - first_page_[b]);
        table_[at] = page;
        own_table_[at] = is_own ? page : random.pick({-1, 1 << 29, -100});
      }
    }
  }

  const Shape s_;
  Memory q_, q_scale_, bias_, mask_;
  Pool all_, own_;
  std::vector<std::int32_t> q_ends_{0}, lengths_, first_page_, table_, own_table_;
  std::vector<float> sinks_;
  std::int64_t max_pages_ = 0;
  Output whole_;
};

struct ShardedCache : testing::Test {
  Random random{test_seed(98)};
  Context context = [] {  // KUMIKO_NUM_THREADS says with how many threads
    Context made;
    EXPECT_TRUE(Context::create({}, &made).ok());
    return made;
  }();

  Shape draw() {
    Shape s;
    const std::int64_t longest = random.pick<std::int64_t>({30, 900, 5000});
    for (std::int64_t i = random.between(1, 5); i > 0; --i) {
      const std::int64_t kv_len = random.between(0, longest);
      s.sequences.push_back({random.one_in(3) ? random.between(0, 40) : 1, kv_len});
    }
    s.kv_heads = random.between(1, 3), s.q_heads = s.kv_heads * random.between(1, 4);
    s.head_dim = random.pick({1, 8, 16, 40}), s.v_head_dim = random.pick({1, 8, 24});
    s.page_keys = random.pick({16, 16, 100, 128, 256, 512});
    s.type = random.pick({DataType::f32, DataType::bf16, DataType::f16});
    s.out_type = random.one_in(3) ? DataType::f32 : s.type;
    s.is_int8 = random.one_in(4), s.bias = random.one_in(5), s.mask = random.one_in(5);
    s.rows_first = random.one_in(2);
    s.is_causal = random.one_in(2);
    if (random.one_in(3)) s.window_left = random.pick({0, 5, 300, 1200});
    if (random.one_in(5)) s.softcap = 3.0f;
    s.sinks = random.one_in(3), s.alibi = random.one_in(4), s.page_lists = random.one_in(2);
    s.lse = !random.one_in(3), s.row_max = random.one_in(3);
    s.seed = random.bits();
    return s;
  }
};

TEST_F(ShardedCache, OutputsHaveTheBitsOfOneMachine) {
  for (int repeat = 0; repeat < thinned(80, 20, 5); ++repeat) {
    const Shape shape = draw();
    SCOPED_TRACE(::testing::Message() << shape);
    Step step(shape);
    const Status whole = attention_forward(context, step.whole());
    ASSERT_TRUE(whole.ok()) << whole.message();
    const Status status = distributed::attention_forward(context, world(), step.own());
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_TRUE(!status.ok() || step.is_right());
  }
}

TEST_F(ShardedCache, ErrorsAreTheSameOnAllRanks) {
  Shape shape;
  shape.sequences = {{1, 3000}, {3, 700}};
  const int last = world_size() - 1;
  const std::string where = "on rank " + std::to_string(last) + ": ";
  const auto expect_error = [&](auto change, Code code, const std::string& text) {
    Step step(shape);
    AttentionArgs args = step.own();
    change(args);
    const Status status = distributed::attention_forward(context, world(), args);
    EXPECT_EQ(status.code(), code) << status.message();
    EXPECT_NE(status.message().find(text), std::string::npos) << status.message();
    EXPECT_TRUE(same_on_all_ranks(status));
    EXPECT_TRUE(step.mine.is_poisoned());
  };
  expect_error(
      [&](auto& a) {
        if (world_rank() == last) a.softcap = -1;
      },
      Code::invalid_argument, where + "softcap is -1");
  expect_error([](auto& a) { a.block_table = nullptr, a.max_pages = 0; }, Code::unsupported,
               "on rank 0: block_table is null; expected pages");
  expect_error([](auto& a) { a.window_left = 3, a.window_sink_tokens = 4; }, Code::unsupported,
               "on rank 0: window_sink_tokens is 4; expected 0 for split states");
  if (world_size() == 1) return;
  expect_error(
      [](auto& a) {
        if (world_rank() == 0) a.is_causal = false;
      },
      Code::invalid_argument, "is_causal differs between ranks");
  const std::int32_t other[] = {3000, 699};
  expect_error(
      [&](auto& a) {
        if (world_rank() == 0) a.seqused_k = other;
      },
      Code::invalid_argument, "seqused_k differs between ranks");
}

}  // namespace
}  // namespace kumiko::test
