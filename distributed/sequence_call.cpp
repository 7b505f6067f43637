// SPDX-License-Identifier: Apache-2.0
#include "distributed/sequence_call.h"

#include <algorithm>
#include <cstring>
#include <tuple>

namespace kumiko::distributed {
namespace {

constexpr std::int64_t kLongestSequence = (std::int64_t{1} << 31) - 512;

/// A window limited to the length of the longest sequence: a wider one has the same effect.
std::int64_t window_of(std::int64_t keys) {
  return std::min(keys, kLongestSequence);
}

const std::byte* element_of(const ConstTensor& tensor, std::int64_t b, std::int64_t h, std::int64_t row) {
  return static_cast<const std::byte*>(tensor.data) +
         (b * tensor.stride[0] + h * tensor.stride[1] + row * tensor.stride[2]) * bytes_of(tensor.dtype);
}

/// `count` rows of a head, one after another.
void copy_rows(const std::byte* from, std::int64_t stride, std::int64_t row, std::int64_t count,
               std::byte* to) {
  if (stride == row) {
    std::memcpy(to, from, static_cast<std::size_t>(count * row));
    return;
  }
  for (std::int64_t i = 0; i < count; ++i)
    std::memcpy(to + i * row, from + i * stride, static_cast<std::size_t>(row));
}

Status invalid(const std::string& what, std::int64_t value, const std::string& expected) {
  return {Code::invalid_argument, what + " is " + std::to_string(value) + "; expected " + expected};
}

/// Checks a tensor's batch and number of rows on this rank.
Status check_rows(const char* name, const std::array<std::int64_t, 4>& shape, std::int64_t batch,
                  std::int64_t rows, int rank) {
  const std::string of = std::string("local.") + name + ".shape[";
  if (shape[0] != batch)
    return invalid(of + "0]", shape[0], std::to_string(batch) + " (sequences, or 1 packed)");
  if (shape[2] != rows)
    return invalid(of + "2]", shape[2], std::to_string(rows) + ", the rows of rank " + std::to_string(rank));
  return {};
}

Status check_unset(const AttentionArgs& a) {
  const std::pair<const char*, bool> fields[] = {
      {"seqused_k", a.seqused_k != nullptr},       {"cu_seqlens_q", a.cu_seqlens_q != nullptr},
      {"cu_seqlens_k", a.cu_seqlens_k != nullptr}, {"num_sequences", a.num_sequences != 0},
      {"block_table", a.block_table != nullptr},   {"kv_indptr", a.kv_indptr != nullptr},
      {"kv_domains", a.kv_domains != nullptr},     {"max_pages", a.max_pages != 0}};
  for (const auto& [name, is_set] : fields) {
    if (is_set)
      return {Code::invalid_argument,
              std::string("local.") + name + " is given; expected none, as `sequences` has the lengths"};
  }
  if (a.key_layout != KeyLayout::rows)
    return {Code::unsupported, "local.key_layout is " + std::to_string(static_cast<int>(a.key_layout)) +
                                   "; expected rows (0), as only pages have tiles"};
  for (const auto& [name, is_set] :
       {std::pair{"tree_mask", a.tree_mask != nullptr}, std::pair{"bsr_indptr", a.bsr_indptr != nullptr}}) {
    if (is_set)
      return {Code::unsupported,
              std::string("local.") + name + " is given; expected null, as queries are spread over ranks"};
  }
  return {};
}

/// What is read sequence by sequence, though each call sees only its own.
Status check_lists(const SequenceParallelArgs& args) {
  const AttentionArgs& a = args.local;
  for (std::size_t b = 0; b < args.sequences.size(); ++b) {
    const std::string at = "[" + std::to_string(b) + "]";
    if (a.causal_sequences && a.causal_sequences[b] > 1)
      return invalid("local.causal_sequences" + at, a.causal_sequences[b], "0 or 1");
    if (a.prefix_lens && a.prefix_lens[b] < 0)
      return invalid("local.prefix_lens" + at, a.prefix_lens[b], "0 or more");
  }
  return {};
}

/// The shapes of bias and mask, which have a column for each key of the longest sequence, or more.
Status check_score_views(const SequenceParallelArgs& args) {
  const AttentionArgs& a = args.local;
  std::int64_t longest = 0;
  for (const SequenceLengths& lengths : args.sequences) longest = std::max(longest, lengths.kv_len);
  for (const auto& [name, view] : {std::pair{"bias", &a.bias}, std::pair{"mask", &a.mask}}) {
    if (!view->data) continue;
    const std::string of = std::string("local.") + name + ".shape[";
    for (std::size_t i = 0; i < 3; ++i) {
      if (view->shape[i] != a.q.shape[i])
        return invalid(of + std::to_string(i) + "]", view->shape[i],
                       std::to_string(a.q.shape[i]) + ", as in local.q");
    }
    if (view->shape[3] < longest)
      return invalid(of + "3]", view->shape[3],
                     "at least " + std::to_string(longest) + ", the keys of the longest sequence");
  }
  if (a.bias.data && a.mask.data && a.mask.shape[3] != a.bias.shape[3])
    return invalid("local.mask.shape[3]", a.mask.shape[3],
                   std::to_string(a.bias.shape[3]) + ", as in local.bias");
  return {};
}

}  // namespace

Status of_local(const Status& status) {
  const bool is_of_arguments = status.code() == Code::invalid_argument || status.code() == Code::unsupported;
  const std::string& text = status.message();
  if (!is_of_arguments || text.starts_with("KUMIKO_") || text.starts_with("context ")) return status;
  return {status.code(), "local." + text};
}

std::int64_t bytes_of(DataType type) {
  return type == DataType::f32 || type == DataType::i32      ? 4
         : type == DataType::i8 || type == DataType::boolean ? 1
                                                             : 2;
}

bool is_packed(const SequenceParallelArgs& args) {
  return args.sequences.size() != 1 && args.local.q.shape[0] == 1;
}

Reach reach_of(const AttentionArgs& a) {
  Reach reach;
  reach.is_causal = a.is_causal;
  reach.is_top_left = a.causal_alignment == CausalAlignment::top_left;
  reach.window_left = window_of(a.window_left);
  reach.window_right = window_of(a.window_right);
  reach.is_any = a.prefix_lens || a.causal_sequences || (a.window_left >= 0 && a.window_sink_tokens > 0) ||
                 (a.window_right >= 0 && a.window_sink_tokens > 0);
  return reach;
}

Work work_of(const SequenceParallelArgs& args) {
  const AttentionArgs& a = args.local;
  Work work;
  work.sequences.assign(args.sequences.begin(), args.sequences.end());
  work.q_heads = a.q.shape[1];
  work.kv_heads = a.k.shape[1];
  work.head_dim = a.q.shape[3];
  work.v_head_dim = a.v.shape[3];
  work.element_bytes = bytes_of(a.v.dtype);
  work.is_causal = a.is_causal;
  work.window_left = window_of(a.window_left);
  work.window_right = window_of(a.window_right);
  work.distribution = args.distribution;
  work.block_keys = args.block_keys;
  if (work.block_keys == 0) choose_blocks(&work);
  return work;
}

Status check_sequence_parallel(const SequenceParallelArgs& args, int ranks, int rank) {
  const AttentionArgs& a = args.local;
  for (std::size_t b = 0; b < args.sequences.size(); ++b) {
    const std::string which = "sequences[" + std::to_string(b) + "].";
    const auto& [q_len, kv_len] = args.sequences[b];
    if (q_len < 0 || q_len > kLongestSequence) return invalid(which + "q_len", q_len, "0..2147483136");
    if (kv_len < 0 || kv_len > kLongestSequence) return invalid(which + "kv_len", kv_len, "0..2147483136");
    if (is_packed(args)) continue;
    const auto& first = args.sequences[0];
    for (const auto& [field, value, others] :
         {std::tuple{"q_len", q_len, first.q_len}, std::tuple{"kv_len", kv_len, first.kv_len}}) {
      if (value != others)
        return invalid(which + field, value,
                       std::to_string(others) + ", as in sequences[0], for local.q is not packed");
    }
  }
  if (args.distribution < Distribution::contiguous || args.distribution > Distribution::cyclic)
    return invalid("distribution", static_cast<int>(args.distribution), "contiguous, zigzag or cyclic");
  if (args.block_keys < 0 || args.block_keys % kKeysPerSplit != 0 || args.block_keys > kLongestSequence)
    return invalid("block_keys", args.block_keys, "0, or a multiple of 512");
  if (!args.is_automatic && args.algorithm != Algorithm::ring && args.algorithm != Algorithm::broadcast &&
      args.algorithm != Algorithm::head_parallel)
    return {Code::invalid_argument, std::string("algorithm is ") + name(args.algorithm) +
                                        "; expected ring, broadcast or head_parallel"};
  if (Status s = check_unset(a); !s.ok()) return s;
  for (const auto& [name, tensor] :
       {std::pair{"local.q", &a.q}, std::pair{"local.k", &a.k}, std::pair{"local.v", &a.v}}) {
    const std::string of(name), shape = of + ".shape[";
    if (tensor->dtype > DataType::i8)
      return invalid(of + ".dtype", static_cast<int>(tensor->dtype), "f32, bf16, f16 or i8");
    for (std::size_t i = 0; i < 4; ++i) {
      if (tensor->shape[i] < 0 || tensor->shape[i] > kLongestSequence)
        return invalid(shape + std::to_string(i) + "]", tensor->shape[i], "0..2147483136");
    }
    if (tensor->shape[1] * tensor->shape[3] > kLongestSequence)
      return invalid(shape + "1] * " + shape + "3]", tensor->shape[1] * tensor->shape[3], "0..2147483136");
  }
  const Work work = work_of(args);
  std::int64_t q_rows = 0, k_rows = 0;
  for (const SequenceLengths& lengths : work.sequences) {
    q_rows += BlockPlan::count(rows_of(work, lengths.q_len, ranks, rank));
    k_rows += BlockPlan::count(rows_of(work, lengths.kv_len, ranks, rank));
  }
  const std::int64_t batch = is_packed(args) ? 1 : std::ssize(args.sequences);
  if (!is_packed(args) && batch > 0) q_rows /= batch, k_rows /= batch;
  if (Status s = check_rows("q", a.q.shape, batch, q_rows, rank); !s.ok()) return s;
  if (Status s = check_rows("out", a.out.shape, batch, q_rows, rank); !s.ok()) return s;
  if (Status s = check_rows("k", a.k.shape, batch, k_rows, rank); !s.ok()) return s;
  if (Status s = check_rows("v", a.v.shape, batch, k_rows, rank); !s.ok()) return s;
  if (Status s = check_score_views(args); !s.ok()) return s;
  return check_lists(args);
}

PageLayout::PageLayout(const AttentionArgs& a)
    : kv_heads(a.k.shape[1]),
      head_dim(a.k.shape[3]),
      v_head_dim(a.v.shape[3]),
      key_bytes(bytes_of(a.k.dtype)),
      value_bytes(bytes_of(a.v.dtype)),
      has_scales(a.k_scale.data != nullptr) {}

SequenceCall::SequenceCall(const SequenceParallelArgs& args, const BlockPlan& plan, int rank)
    : args_(args), plan_(plan), rank_(rank), layout_(args.local), is_packed_(is_packed(args)) {
  for (const SequenceLengths& lengths : args.sequences)
    max_pages_ = std::max(max_pages_, (lengths.kv_len + kKeysPerSplit - 1) / kKeysPerSplit);
  if (is_packed_) add_call(0, 0, args.sequences.size());
  for (std::size_t b = 0; b < args.sequences.size() && !is_packed_; ++b)
    add_call(static_cast<std::int64_t>(b), b, b + 1);
}

/// Sequences [first, last), which lie packed in batch `batch` of the local tensors.
void SequenceCall::add_call(std::int64_t batch, std::size_t first, std::size_t last) {
  Call call;
  call.args = args_.local;
  AttentionArgs& a = call.args;
  call.cu_seqlens_q.push_back(0);
  for (std::size_t b = first; b < last; ++b) {
    const SequenceLengths& lengths = args_.sequences[b];
    for (const Interval& rows : plan_.query_rows(b, rank_)) {
      call.cu_seqlens_q.push_back(call.cu_seqlens_q.back() + static_cast<std::int32_t>(rows.size()));
      call.seqused_k.push_back(static_cast<std::int32_t>(lengths.kv_len));
      call.query_begin.push_back(rows.begin);
      call.query_total.push_back(lengths.q_len);
      call.sequence.push_back(b);
      if (a.prefix_lens) call.prefix_lens.push_back(a.prefix_lens[b]);
      if (a.causal_sequences) call.causal_sequences.push_back(a.causal_sequences[b]);
      for (std::int64_t h = 0; h < a.q.shape[1] && a.alibi_slopes; ++h)
        call.alibi_slopes.push_back(a.alibi_slopes[static_cast<std::int64_t>(b) * a.alibi_batch_stride + h]);
    }
  }
  if (call.sequence.empty()) return;
  const auto take_batch = [&](auto& view) {
    if (!view.data) return;
    using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(view.data)>>,
                                    const std::byte, std::byte>;
    view.data = static_cast<Byte*>(view.data) + batch * view.stride[0] * bytes_of(view.dtype);
    view.shape[0] = 1;
  };
  take_batch(a.q), take_batch(a.out), take_batch(a.bias), take_batch(a.mask);
  const std::int64_t rows = a.q.shape[2];
  for (LseView* view : {&a.lse, &a.row_max}) {
    if (!view->data) continue;
    if (view->stride == std::array<std::int64_t, 3>{}) view->stride = {a.q.shape[1] * rows, rows, 1};
    view->data += batch * view->stride[0];
  }
  if (a.q_scale.data) a.q_scale.data += batch * a.q_scale.stride[0];
  a.num_sequences = std::ssize(call.sequence);
  a.max_pages = max_pages_;
  a.alibi_batch_stride = a.alibi_slopes ? a.q.shape[1] : 0;
  call.table.assign(call.sequence.size() * static_cast<std::size_t>(max_pages_), -1);
  calls_.push_back(std::move(call));
}

/// Sets all pointers into the call itself, which has moved since it was made, and those of its keys.
void SequenceCall::set_keys(Call* call) const {
  AttentionArgs& a = call->args;
  a.cu_seqlens_q = call->cu_seqlens_q.data();
  a.seqused_k = call->seqused_k.data();
  a.block_table = call->table.data();
  if (a.prefix_lens) a.prefix_lens = call->prefix_lens.data();
  if (a.causal_sequences) a.causal_sequences = call->causal_sequences.data();
  if (a.alibi_slopes) a.alibi_slopes = call->alibi_slopes.data();
  const PageLayout& l = layout_;
  a.k.data = buffer_;
  a.v.data = buffer_ + l.keys_size();
  for (ConstTensor* view : {&a.k, &a.v}) {
    const std::int64_t dim = view == &a.k ? l.head_dim : l.v_head_dim,
                       bytes = view == &a.k ? l.key_bytes : l.value_bytes;
    view->shape = {lanes_ * lane_pages(), l.kv_heads, kKeysPerSplit, dim};
    view->stride = {l.size() / bytes, l.head_size() / bytes, dim, 1};
  }
  if (!l.has_scales) return;
  a.k_scale.data = reinterpret_cast<const float*>(buffer_ + l.keys_size() + l.values_size());
  a.k_scale.stride = {l.size() / 4, l.head_size() / 4, 1};
}

KeyPart SequenceCall::part_of(const Call& call, std::span<const Step> steps, const HeadRange& heads) const {
  KeyPart part;
  part.key_begin = steps.empty() ? 0 : steps.front().split_begin * kKeysPerSplit;
  part.key_end = steps.empty() ? 0 : steps.back().split_end * kKeysPerSplit;
  part.kv_head_begin = heads.begin;
  part.kv_head_end = heads.end;
  part.query_begin = call.query_begin;
  part.query_total = call.query_total;
  const AttentionArgs& a = args_.local;
  part.score_columns = a.bias.data ? a.bias.shape[3] : a.mask.data ? a.mask.shape[3] : 0;
  return part;
}

Status SequenceCall::prepare(const Context& context, const std::byte* buffer, std::int64_t lanes) {
  buffer_ = buffer;
  lanes_ = lanes;
  state_floats_ = 0;
  for (Call& call : calls_) {
    set_keys(&call);
    std::int64_t floats = 0;
    if (Status s = of_local(prepare_running_states(context, call.args, part_of(call, {}, {}), &floats));
        !s.ok())
      return s;
    call.states_begin = state_floats_;
    state_floats_ += floats;
  }
  return {};
}

void SequenceCall::pack(const Message& message, std::byte* buffer) const {
  const AttentionArgs& a = args_.local;
  const PageLayout& l = layout_;
  std::vector<std::int64_t> first_row(args_.sequences.size(), 0);
  for (std::size_t b = 1; b < first_row.size() && is_packed_; ++b)
    first_row[b] = first_row[b - 1] + BlockPlan::count(plan_.key_rows(b - 1, rank_));
  std::byte* page = buffer + message.first_page * l.size();
  for (const Split& split : message.splits) {
    const auto b = static_cast<std::size_t>(split.sequence);
    const std::int64_t key = split.number * kKeysPerSplit, batch = is_packed_ ? 0 : split.sequence,
                       row = first_row[b] + plan_.place_of_key(b, rank_, key),
                       count = std::min(kKeysPerSplit, args_.sequences[b].kv_len - key);
    for (std::int64_t h = 0; h < l.kv_heads; ++h) {
      const std::int64_t k_row = l.head_dim * l.key_bytes, v_row = l.v_head_dim * l.value_bytes;
      copy_rows(element_of(a.k, batch, h, row), a.k.stride[2] * l.key_bytes, k_row, count,
                page + h * l.head_size());
      copy_rows(element_of(a.v, batch, h, row), a.v.stride[2] * l.value_bytes, v_row, count,
                page + h * l.head_size() + l.keys_size());
      if (!l.has_scales) continue;
      const auto& stride = a.k_scale.stride;
      const float* const scale = a.k_scale.data + batch * stride[0] + h * stride[1] + row * stride[2];
      copy_rows(reinterpret_cast<const std::byte*>(scale), stride[2] * 4, 4, count,
                page + h * l.head_size() + l.keys_size() + l.values_size());
    }
    page += l.size();
  }
}

void SequenceCall::list_pages(const Step& step, std::int64_t lane, Call* call) const {
  const auto columns = static_cast<std::size_t>(max_pages_);
  for (const Message& message : step.messages) {
    auto page = static_cast<std::int32_t>(lane * lane_pages() + message.first_page);
    for (const Split& split : message.splits) {
      for (std::size_t i = 0; i < call->sequence.size(); ++i) {
        if (call->sequence[i] == static_cast<std::size_t>(split.sequence))
          call->table[i * columns + static_cast<std::size_t>(split.number)] = page;
      }
      ++page;
    }
  }
}

Status SequenceCall::run(const Context& context, std::span<const Step> steps, std::size_t first,
                         const HeadRange& heads, float* states, bool is_first, bool is_last) {
  for (Call& call : calls_) {
    for (std::size_t i = 0; i < steps.size(); ++i)
      list_pages(steps[i], static_cast<std::int64_t>(first + i) % lanes_, &call);
    if (Status s = attention_continue(context, call.args, part_of(call, steps, heads),
                                      states ? states + call.states_begin : nullptr, is_first, is_last);
        !s.ok())
      return s;
  }
  return {};
}

Status SequenceCall::merge(const Context& context, const HeadRange& heads, float* states,
                           std::span<const float* const> next, bool is_first, bool is_last) {
  for (Call& call : calls_) {
    std::vector<const float*> begins;
    for (const float* const begin : next) begins.push_back(begin + call.states_begin);
    if (Status s = merge_running_states(context, call.args, part_of(call, {}, heads),
                                        states + call.states_begin, begins, is_first, is_last);
        !s.ok())
      return s;
  }
  return {};
}

}  // namespace kumiko::distributed
