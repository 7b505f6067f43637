// SPDX-License-Identifier: Apache-2.0
#include "tests/distributed/sequence_problem.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

namespace kumiko::test {

using distributed::SequenceLengths;
using distributed::SequenceParallelArgs;

namespace {

ScaleView scale_view(Memory& memory) {
  const ConstTensor view = memory.input();
  return {static_cast<const float*>(view.data), {view.stride[0], view.stride[1], view.stride[2]}};
}
LseView lse_view(Memory& memory) {
  const Tensor view = memory.output();
  return {static_cast<float*>(view.data), {view.stride[0], view.stride[1], view.stride[2]}};
}

}  // namespace

std::ostream& operator<<(std::ostream& os, const SequenceShape& s) {
  for (const auto& [q, k] : s.sequences) os << q << "/" << k << " ";
  return os << "packed " << s.is_packed << " heads " << s.q_heads << "/" << s.kv_heads << " dims "
            << s.head_dim << "/" << s.v_head_dim << " type " << static_cast<int>(s.type) << " int8 "
            << s.is_int8 << " causal " << s.is_causal << " align " << static_cast<int>(s.alignment)
            << " window " << s.window_left << "/" << s.window_right << "/" << s.window_sink_tokens << " bias "
            << s.bias << " mask " << s.mask << " alibi " << s.alibi << " sinks " << s.sinks << " prefix "
            << s.prefix_lens << " distribution " << static_cast<int>(s.distribution) << " algorithm "
            << s.is_automatic << static_cast<int>(s.algorithm) << " block " << s.block_keys << " seed "
            << s.seed;
}

SequenceProblem::SequenceProblem(const SequenceShape& shape) : s_(shape) {
  Random random(s_.seed);
  std::int64_t queries = 0, keys = 0, longest = 0;
  for (const SequenceLengths& lengths : s_.sequences) {
    q_ends_.push_back(static_cast<std::int32_t>(queries += lengths.q_len));
    k_ends_.push_back(static_cast<std::int32_t>(keys += lengths.kv_len));
    longest = std::max(longest, lengths.kv_len);
    prefix_lens_.push_back(static_cast<std::int32_t>(random.between(0, lengths.kv_len)));
    causal_.push_back(random.one_in(2));
  }
  const DataType qk = s_.is_int8 ? DataType::i8 : s_.type;
  const auto make = [&](std::int64_t heads, std::int64_t rows, std::int64_t dim, DataType type) {
    Memory memory(1, heads, rows, dim, type, s_.rows_first);
    memory.draw(random);
    return memory;
  };
  const std::int64_t count = std::ssize(s_.sequences);
  q_ = make(s_.q_heads, queries, s_.head_dim, qk);
  k_ = make(s_.kv_heads, keys, s_.head_dim, qk);
  v_ = make(s_.kv_heads, keys, s_.v_head_dim, s_.type);
  out_ = make(s_.q_heads, queries, s_.v_head_dim, s_.out_type);
  q_scale_ = make(s_.q_heads, queries, 1, DataType::f32);
  k_scale_ = make(s_.kv_heads, keys, 1, DataType::f32);
  lse_ = make(s_.q_heads, queries, 1, DataType::f32);
  row_max_ = make(s_.q_heads, queries, 1, DataType::f32);
  // All ranks have them whole: of a column where they are not used.
  bias_ = make(s_.q_heads, queries, s_.bias ? longest : 1, DataType::f32);
  mask_ = make(1, queries, s_.mask ? longest : 1, DataType::boolean);
  for (std::int64_t i = 0; i < s_.q_heads * std::max<std::int64_t>(count, 1); ++i)
    slopes_.push_back(std::abs(random.normal()) / 8);
  for (std::int64_t h = 0; h < s_.q_heads; ++h) sinks_.push_back(random.normal());
  local_q_ = local_of(q_, true), local_k_ = local_of(k_, false), local_v_ = local_of(v_, false);
  local_q_scale_ = local_of(q_scale_, true), local_k_scale_ = local_of(k_scale_, false);
  local_bias_ = local_of(bias_, true), local_mask_ = local_of(mask_, true);
  local_out_ = local_of(out_, true), local_lse_ = local_of(lse_, true);
  local_row_max_ = local_of(row_max_, true);
  for (Memory* memory : {&out_, &lse_, &row_max_, &local_out_, &local_lse_, &local_row_max_})
    memory->poison();
}

AttentionArgs SequenceProblem::whole() {
  AttentionArgs a = common();
  a.q = q_.input(), a.k = k_.input(), a.v = v_.input(), a.out = out_.output();
  if (s_.is_int8) a.q_scale = scale_view(q_scale_), a.k_scale = scale_view(k_scale_);
  if (s_.lse) a.lse = lse_view(lse_);
  if (s_.row_max) a.row_max = lse_view(row_max_);
  if (s_.bias) a.bias = bias_.input();
  if (s_.mask) a.mask = mask_view(mask_);
  a.cu_seqlens_q = q_ends_.data(), a.cu_seqlens_k = k_ends_.data();
  a.num_sequences = std::ssize(s_.sequences);
  return a;
}

SequenceParallelArgs SequenceProblem::local() {
  SequenceParallelArgs args;
  AttentionArgs& a = args.local = common();
  a.q = local_q_.input(), a.k = local_k_.input(), a.v = local_v_.input(), a.out = local_out_.output();
  if (s_.is_int8) a.q_scale = scale_view(local_q_scale_), a.k_scale = scale_view(local_k_scale_);
  if (s_.lse) a.lse = lse_view(local_lse_);
  if (s_.row_max) a.row_max = lse_view(local_row_max_);
  if (s_.bias) a.bias = local_bias_.input();
  if (s_.mask) a.mask = mask_view(local_mask_);
  args.sequences = s_.sequences;
  args.distribution = s_.distribution;
  args.is_automatic = s_.is_automatic;
  args.algorithm = s_.algorithm;
  args.block_keys = s_.block_keys;
  return args;
}

::testing::AssertionResult SequenceProblem::is_right() {
  std::string wrong;
  gather(out_, true, [&](std::int64_t b, std::int64_t h, std::int64_t from, std::int64_t to) {
    const auto differs = [&](Memory& all, Memory& mine) {
      return std::memcmp(all.row(0, h, from), mine.row(b, h, to), all.row_bytes()) != 0;
    };
    if (!wrong.empty()) return;
    if (differs(out_, local_out_)) wrong = "out";
    if (s_.lse && differs(lse_, local_lse_)) wrong += " lse";
    if (s_.row_max && differs(row_max_, local_row_max_)) wrong += " row_max";
    if (!wrong.empty()) wrong += " of head " + std::to_string(h) + ", packed query " + std::to_string(from);
  });
  if (wrong.empty()) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << wrong;
}

bool SequenceProblem::outputs_untouched() const {
  return local_out_.is_poisoned() && local_lse_.is_poisoned() && local_row_max_.is_poisoned();
}

AttentionArgs SequenceProblem::common() {
  AttentionArgs a;
  a.is_causal = s_.is_causal;
  a.causal_alignment = s_.alignment;
  a.window_left = s_.window_left, a.window_right = s_.window_right;
  a.window_sink_tokens = s_.window_sink_tokens;
  a.softcap = s_.softcap;
  if (s_.alibi) a.alibi_slopes = slopes_.data(), a.alibi_batch_stride = s_.q_heads;
  if (s_.sinks) a.sinks = sinks_.data();
  if (s_.prefix_lens) a.prefix_lens = prefix_lens_.data();
  if (s_.causal_sequences) a.causal_sequences = causal_.data();
  return a;
}

ConstTensor SequenceProblem::mask_view(Memory& memory) const {
  ConstTensor view = memory.input();
  view.shape[1] = s_.q_heads, view.stride[1] = 0;
  return view;
}

std::int64_t SequenceProblem::count_of(std::size_t b, bool is_query) const {
  std::int64_t count = 0;
  for (const auto& rows : rows_of(b, is_query)) count += rows.end - rows.begin;
  return count;
}

std::vector<distributed::Rows> SequenceProblem::rows_of(std::size_t b, bool is_query) const {
  const SequenceLengths& lengths = s_.sequences[b];
  return rows_of_rank(s_.distribution, is_query ? lengths.q_len : lengths.kv_len, world_size(), world_rank());
}

template <class Visit>
void SequenceProblem::gather(Memory& whole, bool is_query, Visit visit) const {
  for (std::int64_t h = 0; h < whole.shape()[1]; ++h) {
    std::int64_t to = 0;
    for (std::size_t b = 0; b < s_.sequences.size(); ++b) {
      if (!s_.is_packed) to = 0;
      for (const auto& rows : rows_of(b, is_query)) {
        for (std::int64_t i = rows.begin; i < rows.end; ++i)
          visit(s_.is_packed ? 0 : static_cast<std::int64_t>(b), h, (is_query ? q_ends_ : k_ends_)[b] + i,
                to++);
      }
    }
  }
}

Memory SequenceProblem::local_of(Memory& whole, bool is_query) const {
  const std::int64_t count = std::ssize(s_.sequences), batch = s_.is_packed ? 1 : count;
  std::int64_t rows = 0;
  for (std::size_t b = 0; b < s_.sequences.size(); ++b) rows += count_of(b, is_query);
  Memory memory(batch, whole.shape()[1], s_.is_packed ? rows : rows / std::max<std::int64_t>(count, 1),
                whole.shape()[3], whole.output().dtype, !s_.rows_first);
  gather(whole, is_query, [&](std::int64_t b, std::int64_t h, std::int64_t from, std::int64_t to) {
    std::memcpy(memory.row(b, h, to), whole.row(0, h, from), memory.row_bytes());
  });
  return memory;
}

void expect_bits_of_one_machine(const Context& context, const SequenceShape& shape) {
  SCOPED_TRACE(::testing::Message() << shape);
  SequenceProblem problem(shape);
  const Status whole = attention_forward(context, problem.whole());
  ASSERT_TRUE(whole.ok()) << whole.message();
  const Status status = distributed::attention_forward(context, world(), problem.local());
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(!status.ok() || problem.is_right());
}

}  // namespace kumiko::test
