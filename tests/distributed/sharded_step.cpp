// SPDX-License-Identifier: Apache-2.0
#include "tests/distributed/sharded_step.h"

#include <algorithm>
#include <cstring>

namespace kumiko::test {

std::ostream& operator<<(std::ostream& os, const StepShape& s) {
  for (const auto& [q, k] : s.sequences) os << q << "/" << k << " ";
  return os << "heads " << s.q_heads << "/" << s.kv_heads << " dims " << s.head_dim << "/" << s.v_head_dim
            << " pages of " << s.page_keys << " type " << static_cast<int>(s.type) << " int8 " << s.is_int8
            << " bias " << s.bias << " mask " << s.mask << " causal " << s.is_causal << " window "
            << s.window_left << " sinks " << s.sinks << " lists " << s.page_lists << " seed " << s.seed;
}

ShardedStep::ShardedStep(const StepShape& shape) : s_(shape) {
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
  spoil_others(random);
  for (Output* output : {&whole_, &mine_}) {
    output->out = Memory(1, s_.q_heads, queries, s_.v_head_dim, s_.out_type, !s_.rows_first);
    output->lse = output->row_max = Memory(1, s_.q_heads, queries, 1, DataType::f32, s_.rows_first);
    output->poison();
  }
}

::testing::AssertionResult ShardedStep::is_right() const {
  if (mine_ == whole_) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "other bits";
}

AttentionArgs ShardedStep::args(Pool& pool, const std::vector<std::int32_t>& table, Output* output) {
  AttentionArgs a;
  a.q = q_.input(), a.k = pool.k.input(), a.v = pool.v.input(), a.out = output->out.output();
  const auto scale = [](Memory& memory) {
    const ConstTensor view = memory.input();
    return ScaleView{static_cast<const float*>(view.data), {view.stride[0], view.stride[1], view.stride[2]}};
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
void ShardedStep::spoil_others(Random& random) {
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

}  // namespace kumiko::test
