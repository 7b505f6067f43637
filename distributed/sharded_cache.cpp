// SPDX-License-Identifier: Apache-2.0
#include "distributed/sharded_cache.h"

#include <kumiko/key_parts.h>

#include <cstring>
#include <limits>

#include "distributed/agreement.h"
#include "distributed/sequence_call.h"

namespace kumiko::distributed {
namespace {

constexpr std::int64_t kMostCount = std::numeric_limits<int>::max();

}  // namespace

ShardedCache::ShardedCache(const Context& context, const AttentionArgs& args, Transport& transport)
    : context_(context),
      args_(args),
      transport_(transport),
      sequences_(args.cu_seqlens_q ? args.num_sequences : args.q.shape[0]),
      kv_heads_(args.k.shape[1]),
      group_(kv_heads_ > 0 ? args.q.shape[1] / kv_heads_ : 0),
      size_(args.v.shape[3] + 2) {}

ShardedCache::~ShardedCache() {
  // Transfers that never end still point to it.
  if (transport_.failed()) transport_.keep(memory_);
}

std::int64_t ShardedCache::rows_of(std::int64_t b) const {
  return group_ * (args_.cu_seqlens_q ? args_.cu_seqlens_q[b + 1] - args_.cu_seqlens_q[b] : args_.q.shape[2]);
}

std::int64_t ShardedCache::splits_of(std::int64_t b) const {
  return (args_.seqused_k[b] + kKeysPerSplit - 1) / kKeysPerSplit;
}

std::int64_t ShardedCache::own_splits(std::int64_t b, std::int64_t rank) const {
  const std::int64_t splits = splits_of(b), ranks = transport_.size();
  return splits > rank ? (splits - rank + ranks - 1) / ranks : 0;
}

Status ShardedCache::prepare() {
  if (!args_.block_table)
    return {Code::unsupported,
            "block_table is null; expected pages, as keys are spread over ranks by splits of 512"};
  KeyPart part;
  part.parts = transport_.size();
  part.part = transport_.rank();
  std::int64_t floats = 0;
  if (Status s = prepare_split_states(context_, args_, part, &floats); !s.ok()) return s;
  share_units();
  if (Status s = count_rows(); !s.ok()) return s;
  const auto sum = [](const std::vector<int>& counts) {
    std::size_t all = 0;
    for (const int count : counts) all += static_cast<std::size_t>(count);
    return all;
  };
  // One float more than needed, because MPI takes no null pointer.
  memory_->states.resize(static_cast<std::size_t>(floats) + 1);
  memory_->received.resize(sum(received_) * static_cast<std::size_t>(size_) + 1);
  memory_->result.resize(
      static_cast<std::size_t>(result_bytes_[static_cast<std::size_t>(transport_.rank())]));
  memory_->results.resize(sum(result_bytes_));
  const auto& shape = args_.out.shape;
  const std::int64_t rows = shape[0] * shape[1] * shape[2];
  out_.resize(static_cast<std::size_t>(rows * shape[3] * bytes_of(args_.out.dtype)));
  if (args_.lse.data) lse_.resize(static_cast<std::size_t>(rows));
  if (args_.row_max.data) row_max_.resize(static_cast<std::size_t>(rows));
  merged_ = args_;
  merged_.out = Tensor::bhsd(out_.data(), shape[0], shape[1], shape[2], shape[3], args_.out.dtype);
  merged_.lse = {args_.lse.data ? lse_.data() : nullptr, {}};
  merged_.row_max = {args_.row_max.data ? row_max_.data() : nullptr, {}};
  return {};
}

/// Deals the units to the ranks as evenly as whole units allow, by what their merges read.
void ShardedCache::share_units() {
  const int ranks = transport_.size();
  std::int64_t all = 0;
  const auto cost = [&](std::int64_t b) { return (splits_of(b) + 1) * rows_of(b); };
  for (std::int64_t b = 0; b < sequences_; ++b) all += cost(b) * kv_heads_;
  std::int64_t before = 0, unit = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    unit_begin_.push_back(unit);
    while (unit < sequences_ * kv_heads_ &&
           (2 * before + cost(unit / kv_heads_)) * ranks <= 2 * all * (rank + 1)) {
      before += cost(unit / kv_heads_);
      ++unit;
    }
  }
  unit_begin_.push_back(sequences_ * kv_heads_);
}

Status ShardedCache::count_rows() {
  const int ranks = transport_.size(), me = transport_.rank();
  const std::int64_t row_bytes = args_.out.shape[3] * bytes_of(args_.out.dtype) + (args_.lse.data ? 4 : 0) +
                                 (args_.row_max.data ? 4 : 0);
  // MPI takes the offsets of what ranks send each other as int, too.
  std::int64_t all_sent = 0, all_received = 0, all_results = 0;
  bool fits = true;
  const auto push = [&](std::vector<int>& counts, std::int64_t count, std::int64_t* all) {
    fits = fits && (*all += count) <= kMostCount;
    counts.push_back(fits ? static_cast<int>(count) : 0);
  };
  for (int rank = 0; rank < ranks; ++rank) {
    std::int64_t sent = 0, received = 0, rows = 0;
    for (std::int64_t unit = first_unit(rank); unit < first_unit(rank + 1); ++unit) {
      const std::int64_t b = unit / kv_heads_;
      sent += own_splits(b, me) * rows_of(b);
      rows += rows_of(b);
    }
    for (std::int64_t unit = first_unit(me); unit < first_unit(me + 1); ++unit)
      received += own_splits(unit / kv_heads_, rank) * rows_of(unit / kv_heads_);
    push(sent_, sent, &all_sent);
    push(received_, received, &all_received);
    push(result_bytes_, static_cast<std::int64_t>(sizeof(std::int32_t)) + rows * row_bytes, &all_results);
  }
  if (fits) return {};
  return {Code::unsupported,
          "q.shape makes more than 2^31 - 1 states of a rank or bytes of results; expected fewer "
          "rows, or sequence-parallel queries"};
}

Status ShardedCache::compute() {
  KeyPart part;
  part.parts = transport_.size();
  part.part = transport_.rank();
  return attention_split_states(context_, args_, part, memory_->states.data());
}

Status ShardedCache::merge_all(const Status& computed) {
  // A rank that fails sends states that nobody will use, because others wait for them.
  Status mine = computed;
  MPI_Datatype state = transport_.make_type(size_ * static_cast<std::int64_t>(sizeof(float)));
  MPI_Request request = MPI_REQUEST_NULL;
  transport_.exchange(memory_->states.data(), sent_, memory_->received.data(), received_, state, &request);
  if (!transport_.wait(&request)) return transport_.status();
  transport_.free_type(&state);
  if (mine.ok()) mine = merge();
  pack_results(mine);
  transport_.gather_all(memory_->result.data(), static_cast<int>(memory_->result.size()),
                        memory_->results.data(), result_bytes_, &request);
  if (!transport_.wait(&request)) return transport_.status();
  std::size_t at = 0;
  bool all_ok = true;
  for (const int bytes : result_bytes_) {
    std::int32_t code = 0;
    std::memcpy(&code, memory_->results.data() + at, sizeof code);
    all_ok = all_ok && code == 0;
    at += static_cast<std::size_t>(bytes);
  }
  if (!all_ok) return agree(transport_, {}, mine);
  unpack_results();
  return {};
}

Status ShardedCache::merge() {
  std::vector<const float*> parts;
  const float* next = memory_->received.data();
  for (const int count : received_) {
    parts.push_back(next);
    next += count * size_;
  }
  const int me = transport_.rank();
  return merge_split_states(context_, merged_, parts, first_unit(me), first_unit(me + 1));
}

/// visit(row of the outputs: batch, head, position) for each row of the units that a rank merges.
template <class Visit>
void ShardedCache::visit_results(int rank, Visit visit) const {
  for (std::int64_t unit = first_unit(rank); unit < first_unit(rank + 1); ++unit) {
    const std::int64_t b = unit / kv_heads_, first = args_.cu_seqlens_q ? args_.cu_seqlens_q[b] : 0;
    for (std::int64_t row = 0; row < rows_of(b); ++row)
      visit(args_.cu_seqlens_q ? 0 : b, unit % kv_heads_ * group_ + row % group_, first + row / group_);
  }
}

void ShardedCache::pack_results(const Status& mine) {
  const auto code = static_cast<std::int32_t>(mine.code());
  std::byte* to = memory_->result.data();
  std::memcpy(to, &code, sizeof code);
  to += sizeof code;
  const auto& shape = args_.out.shape;
  const std::size_t bytes = static_cast<std::size_t>(shape[3] * bytes_of(args_.out.dtype));
  visit_results(transport_.rank(), [&](std::int64_t b, std::int64_t h, std::int64_t i) {
    const auto row = static_cast<std::size_t>((b * shape[1] + h) * shape[2] + i);
    std::memcpy(to, out_.data() + row * bytes, bytes);
    to += bytes;
    for (const std::vector<float>* values : {&lse_, &row_max_}) {
      if (values->empty()) continue;
      std::memcpy(to, values->data() + row, sizeof(float));
      to += sizeof(float);
    }
  });
}

void ShardedCache::unpack_results() const {
  const auto& shape = args_.out.shape;
  const std::size_t bytes = static_cast<std::size_t>(shape[3] * bytes_of(args_.out.dtype));
  const std::byte* from = memory_->results.data();
  for (int rank = 0; rank < transport_.size(); ++rank) {
    from += sizeof(std::int32_t);
    visit_results(rank, [&](std::int64_t b, std::int64_t h, std::int64_t i) {
      const auto& stride = args_.out.stride;
      std::memcpy(static_cast<std::byte*>(args_.out.data) +
                      (b * stride[0] + h * stride[1] + i * stride[2]) * bytes_of(args_.out.dtype),
                  from, bytes);
      from += bytes;
      for (const LseView* view : {&args_.lse, &args_.row_max}) {
        if (!view->data) continue;
        const bool is_contiguous = view->stride == std::array<std::int64_t, 3>{};
        const std::int64_t at = is_contiguous
                                    ? (b * shape[1] + h) * shape[2] + i
                                    : b * view->stride[0] + h * view->stride[1] + i * view->stride[2];
        std::memcpy(view->data + at, from, sizeof(float));
        from += sizeof(float);
      }
    });
  }
}

}  // namespace kumiko::distributed
