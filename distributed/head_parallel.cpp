// SPDX-License-Identifier: Apache-2.0
#include "distributed/head_parallel.h"

#include <kumiko/key_parts.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>

namespace kumiko::distributed {
namespace {

/// Messages are multiples of this, so that their sizes fit MPI's counts up to 512 GB.
constexpr std::int64_t kUnit = 256;

}  // namespace

HeadParallel::HeadParallel(const Context& context, const SequenceParallelArgs& args, Transport& transport)
    : context_(context),
      args_(args),
      transport_(transport),
      plan_(work_of(args), reach_of(args.local), transport.size()) {}

HeadParallel::~HeadParallel() {
  // Transfers that never end still point to it.
  if (transport_.failed()) transport_.keep(sent_), transport_.keep(received_);
}

/// Memory of a tensor of whole sequences; never null.
std::byte* HeadParallel::take(std::int64_t bytes) {
  return tensors_.emplace_back(static_cast<std::size_t>(bytes) + 64).data();
}

Status HeadParallel::prepare() {
  const AttentionArgs& a = args_.local;
  if (a.k.shape[1] < transport_.size())
    return {Code::unsupported, "local.k.shape[1] (kv_heads) is " + std::to_string(a.k.shape[1]) +
                                   "; expected at least " + std::to_string(transport_.size()) +
                                   ", the ranks, as algorithm is head_parallel"};
  if (a.bias.data || a.mask.data)
    return {Code::unsupported, std::string("algorithm is head_parallel; expected ring or broadcast, as ") +
                                   (a.bias.data ? "local.bias" : "local.mask") + " is given"};
  std::int64_t queries = 0, keys = 0;
  for (const SequenceLengths& lengths : args_.sequences) {
    queries += lengths.q_len, keys += lengths.kv_len;
    if (std::max(queries, keys) > std::numeric_limits<std::int32_t>::max())
      return {Code::unsupported,
              "algorithm is head_parallel; expected ring or broadcast, as `sequences` have more than 2^31 - "
              "1 tokens"};
    cu_seqlens_q_.push_back(static_cast<std::int32_t>(queries));
    cu_seqlens_k_.push_back(static_cast<std::int32_t>(keys));
  }
  const std::int64_t kv_heads = heads_of(transport_.rank()), group = a.q.shape[1] / a.k.shape[1],
                     first = first_head(transport_.rank());
  whole_ = a;
  const auto in = [&](ConstTensor& view, bool is_query) {
    const std::int64_t heads = is_query ? kv_heads * group : kv_heads, rows = is_query ? queries : keys;
    std::byte* const memory = take(heads * rows * view.shape[3] * bytes_of(view.dtype));
    add_field(view, is_query, memory, &in_);
    view = ConstTensor::bhsd(memory, 1, heads, rows, view.shape[3], view.dtype);
  };
  in(whole_.q, true), in(whole_.k, false), in(whole_.v, false);
  const auto in_scales = [&](ScaleView& view, bool is_query) {
    if (!view.data) return;
    const std::int64_t heads = is_query ? kv_heads * group : kv_heads, rows = is_query ? queries : keys;
    std::byte* const memory = take(heads * rows * 4);
    // The bytes are read, never written.
    in_.push_back({const_cast<std::byte*>(reinterpret_cast<const std::byte*>(view.data)), view.stride[0] * 4,
                   view.stride[1] * 4, view.stride[2] * 4, memory, 4, is_query ? group : 1, is_query});
    view = {reinterpret_cast<const float*>(memory), {0, rows, 1}};
  };
  in_scales(whole_.q_scale, true), in_scales(whole_.k_scale, false);
  const std::int64_t out_bytes = a.out.shape[3] * bytes_of(a.out.dtype), element = bytes_of(a.out.dtype);
  std::byte* const out = take(kv_heads * group * queries * out_bytes);
  out_.push_back({static_cast<std::byte*>(a.out.data), a.out.stride[0] * element, a.out.stride[1] * element,
                  a.out.stride[2] * element, out, out_bytes, group, true});
  whole_.out = Tensor::bhsd(out, 1, kv_heads * group, queries, a.out.shape[3], a.out.dtype);
  for (LseView* view : {&whole_.lse, &whole_.row_max}) {
    if (!view->data) continue;
    std::array<std::int64_t, 3> stride = view->stride;
    if (stride == std::array<std::int64_t, 3>{}) stride = {a.q.shape[1] * a.q.shape[2], a.q.shape[2], 1};
    std::byte* const memory = take(kv_heads * group * queries * 4);
    out_.push_back({reinterpret_cast<std::byte*>(view->data), stride[0] * 4, stride[1] * 4, stride[2] * 4,
                    memory, 4, group, true});
    *view = {reinterpret_cast<float*>(memory), {}};
  }
  whole_.cu_seqlens_q = cu_seqlens_q_.data();
  whole_.cu_seqlens_k = cu_seqlens_k_.data();
  whole_.num_sequences = std::ssize(args_.sequences);
  if (whole_.alibi_slopes) whole_.alibi_slopes += first * group;
  if (whole_.sinks) whole_.sinks += first * group;
  if (args_.sequences.empty()) return {};
  std::int64_t floats = 0;
  return of_local(prepare_running_states(context_, whole_, {}, &floats));
}

void HeadParallel::add_field(const ConstTensor& tensor, bool is_query, std::byte* whole,
                             std::vector<Field>* fields) const {
  const std::int64_t bytes = bytes_of(tensor.dtype), group = args_.local.q.shape[1] / args_.local.k.shape[1];
  // The bytes are read, never written.
  fields->push_back({const_cast<std::byte*>(static_cast<const std::byte*>(tensor.data)),
                     tensor.stride[0] * bytes, tensor.stride[1] * bytes, tensor.stride[2] * bytes, whole,
                     tensor.shape[3] * bytes, is_query ? group : 1, is_query});
}

std::int64_t HeadParallel::message_bytes(const std::vector<Field>& fields, int rows_of_rank,
                                         int heads_of_rank) const {
  std::int64_t bytes = 0;
  for (const Field& field : fields) {
    std::int64_t rows = 0;
    for (std::size_t b = 0; b < args_.sequences.size(); ++b)
      rows += BlockPlan::count(rows_of(field, b, rows_of_rank));
    bytes += rows * heads_of(heads_of_rank) * field.per_kv_head * field.bytes;
  }
  return (bytes + kUnit - 1) / kUnit * kUnit;
}

template <bool kToMessage, bool kLocal>
void HeadParallel::copy(const std::vector<Field>& fields, int rows_of_rank, int heads_of_rank,
                        std::byte* message) const {
  const bool packed = is_packed(args_);
  for (const Field& field : fields) {
    const std::vector<std::int32_t>& begin = field.is_query ? cu_seqlens_q_ : cu_seqlens_k_;
    const std::int64_t heads = heads_of(heads_of_rank) * field.per_kv_head,
                       first = first_head(heads_of_rank) * field.per_kv_head;
    for (std::int64_t h = 0; h < heads; ++h) {
      std::int64_t row = 0;
      for (std::size_t b = 0; b < args_.sequences.size(); ++b) {
        if (!packed) row = 0;
        for (const Interval& part : rows_of(field, b, rows_of_rank)) {
          std::byte* at;
          std::int64_t step = field.bytes;
          if constexpr (kLocal) {
            at = field.local + (packed ? 0 : static_cast<std::int64_t>(b)) * field.batch_step +
                 (first + h) * field.head_step + row * field.row_step;
            step = field.row_step;
          } else {
            at = field.whole + (h * begin.back() + begin[b] + part.begin) * field.bytes;
          }
          for (std::int64_t i = 0; i < part.size(); ++i, at += step, message += field.bytes)
            kToMessage ? std::memcpy(message, at, static_cast<std::size_t>(field.bytes))
                       : std::memcpy(at, message, static_cast<std::size_t>(field.bytes));
          row += part.size();
        }
      }
    }
  }
}

/// From this rank's rows to its heads, or back.
template <bool kBack>
bool HeadParallel::exchange(const std::vector<Field>& fields) {
  const int me = transport_.rank();
  std::vector<int> sent, received;
  std::int64_t sending = 0, receiving = 0;
  for (int rank = 0; rank < transport_.size(); ++rank) {
    const std::int64_t out = kBack ? message_bytes(fields, rank, me) : message_bytes(fields, me, rank),
                       in = kBack ? message_bytes(fields, me, rank) : message_bytes(fields, rank, me);
    sent.push_back(static_cast<int>(out / kUnit));
    received.push_back(static_cast<int>(in / kUnit));
    sending += out, receiving += in;
  }
  sent_->resize(static_cast<std::size_t>(sending) + 1);
  received_->resize(static_cast<std::size_t>(receiving) + 1);
  std::byte* message = sent_->data();
  for (int rank = 0; rank < transport_.size(); ++rank) {
    kBack ? copy<true, false>(fields, rank, me, message) : copy<true, true>(fields, me, rank, message);
    message += sent[static_cast<std::size_t>(rank)] * kUnit;
  }
  MPI_Datatype unit = transport_.make_type(kUnit);
  MPI_Request request = MPI_REQUEST_NULL;
  transport_.exchange(sent_->data(), sent, received_->data(), received, unit, &request);
  if (!transport_.wait(&request)) return false;
  transport_.free_type(&unit);
  message = received_->data();
  for (int rank = 0; rank < transport_.size(); ++rank) {
    kBack ? copy<false, true>(fields, me, rank, message) : copy<false, false>(fields, rank, me, message);
    message += received[static_cast<std::size_t>(rank)] * kUnit;
  }
  return !transport_.failed();
}

Status HeadParallel::run() {
  if (!exchange<false>(in_)) return transport_.status();
  // A rank that fails sends results that nobody will use, because others wait for them.
  const Status computed = args_.sequences.empty() ? Status() : attention_forward(context_, whole_);
  if (!exchange<true>(out_)) return transport_.status();
  return computed;
}

}  // namespace kumiko::distributed
