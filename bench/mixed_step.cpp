// SPDX-License-Identifier: Apache-2.0
#include "bench/mixed_step.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace kumiko::bench {
namespace {

std::vector<std::int32_t> lengths_of_step(std::int64_t sequences) {
  std::vector<std::int32_t> lengths = {2560};
  for (std::int64_t b = 1; b < sequences; ++b) {
    const double share = static_cast<double>(b - 1) / static_cast<double>(sequences - 2);
    lengths.push_back(static_cast<std::int32_t>(std::lround(128 * std::pow(64.0, share))));
  }
  return lengths;
}

std::int64_t pages_of(std::int64_t keys, std::int64_t page) {
  return (keys + page - 1) / page;
}

std::int64_t all_pages(const std::vector<std::int32_t>& lengths, std::int64_t page) {
  std::int64_t pages = 0;
  for (const std::int32_t length : lengths) pages += pages_of(length, page);
  return pages;
}

std::size_t sz(std::int64_t n) {
  return static_cast<std::size_t>(n);
}

void fill(DataType type, std::uint64_t seed, float size, std::byte* to, std::int64_t count) {
  Random random(seed);
  for (std::int64_t i = 0; i < count; ++i)
    store_rounded(type, size * random.uniform(), to + i * bytes_of(type));
}

}  // namespace

MixedStep::MixedStep(DataType type)
    : type_(type),
      lengths_(lengths_of_step(kSequences)),
      pages_(all_pages(lengths_, kPage)),
      keys_(sz(pages_ * kPage * kHeads * kDim * bytes_of(type))),
      values_(sz(pages_ * kPage * kHeads * kDim * bytes_of(type))) {
  max_pages_ = pages_of(*std::max_element(lengths_.begin(), lengths_.end()), kPage);
  cu_seqlens_ = {0, kChunk};
  for (std::int64_t b = 1; b < kSequences; ++b) cu_seqlens_.push_back(cu_seqlens_.back() + 1);
  chunk_positions_ = {0, kChunk};
  decode_positions_.resize(sz(kSequences));
  std::iota(decode_positions_.begin(), decode_positions_.end(), 0);
  std::vector<std::int32_t> order(sz(pages_));
  std::iota(order.begin(), order.end(), 0);
  Random random(0x5bd1e995u);
  for (std::int64_t i = pages_; i > 1; --i) std::swap(order[sz(i - 1)], order[sz(random.below(i))]);
  block_table_.resize(sz(kSequences * max_pages_), -1);
  for (std::int64_t b = 0; b < kSequences; ++b) {
    for (std::int64_t i = 0; i < pages_of(lengths_[sz(b)], kPage); ++i) {
      block_table_[sz(b * max_pages_ + i)] = order.back();
      order.pop_back();
    }
  }
  const std::int64_t rows = cu_seqlens_.back() * kQueryHeads * kDim;
  q_.resize(sz(rows * bytes_of(type)));
  out_.resize(q_.size());
  fill(type, 11, 1.0f, q_.data(), rows);
  // Small keys: scores have a standard deviation of 1/3, so that no key's weight is far below the mean.
  fill(type, 12, 0.25f, keys_.data(), pages_ * kPage * kHeads * kDim);
  fill(type, 13, 0x1p-5f, values_.data(), pages_ * kPage * kHeads * kDim);
  mark_values();
}

// In random values one key of thousands is lost in the rounding. So each has 1 or -1 in one dimension.
void MixedStep::mark_values() {
  Random random(14);
  for (std::int64_t b = 0; b < kSequences; ++b) {
    for (std::int64_t j = 0; j < lengths_[sz(b)]; ++j) {
      for (std::int64_t h = 0; h < kHeads; ++h) {
        const float sign = random.below(2) == 0 ? 1.0f : -1.0f;
        store_rounded(type_, sign, values_.data() + row_at(b, j, h) + j % kDim * bytes_of(type_));
      }
    }
  }
}

AttentionArgs MixedStep::args(std::int64_t first, std::int64_t last) const {
  const std::int64_t begin = cu_seqlens_[sz(first)], count = cu_seqlens_[sz(last)] - begin;
  const std::int64_t offset = begin * kQueryHeads * kDim * bytes_of(type_);
  AttentionArgs a;
  a.q = ConstTensor::bshd(q_.data() + offset, 1, count, kQueryHeads, kDim, type_);
  a.out = Tensor::bshd(const_cast<std::byte*>(out_.data()) + offset, 1, count, kQueryHeads, kDim, type_);
  a.k = ConstTensor::bshd(keys_.data(), pages_, kPage, kHeads, kDim, type_);
  a.v = ConstTensor::bshd(values_.data(), pages_, kPage, kHeads, kDim, type_);
  a.is_causal = true;
  a.cu_seqlens_q = first > 0   ? decode_positions_.data()
                   : last == 1 ? chunk_positions_.data()
                               : cu_seqlens_.data();
  a.num_sequences = last - first;
  a.seqused_k = lengths_.data() + first;
  a.block_table = block_table_.data() + first * max_pages_;
  a.max_pages = max_pages_;
  return a;
}

void MixedStep::poison() {
  std::fill(out_.begin(), out_.end(), std::byte{0xff});
}

double MixedStep::value(const std::byte* rows, std::int64_t index) const {
  return load_widened(type_, rows + index * bytes_of(type_));
}

std::int64_t MixedStep::row_at(std::int64_t sequence, std::int64_t key, std::int64_t head) const {
  const std::int64_t page = block_table_[sz(sequence * max_pages_ + key / kPage)];
  return ((page * kPage + key % kPage) * kHeads + head) * kDim * bytes_of(type_);
}

std::string MixedStep::check_row(std::int64_t sequence, std::int64_t position, std::int64_t head) const {
  const std::int64_t begin = cu_seqlens_[sz(sequence)], queries = cu_seqlens_[sz(sequence + 1)] - begin,
                     keys = lengths_[sz(sequence)] - queries + position + 1,
                     at = ((begin + position) * kQueryHeads + head) * kDim;
  std::vector<double> weight(sz(keys)), want(sz(kDim), 0.0);
  double top = -1e300, sum = 0;
  for (std::int64_t j = 0; j < keys; ++j) {
    const std::byte* key = keys_.data() + row_at(sequence, j, head / (kQueryHeads / kHeads));
    double dot = 0;
    for (std::int64_t d = 0; d < kDim; ++d) dot += value(q_.data(), at + d) * value(key, d);
    weight[sz(j)] = dot / std::sqrt(static_cast<double>(kDim));
    top = std::max(top, weight[sz(j)]);
  }
  for (double& w : weight) sum += w = std::exp(w - top);
  for (std::int64_t j = 0; j < keys; ++j) {
    const std::byte* v = values_.data() + row_at(sequence, j, head / (kQueryHeads / kHeads));
    for (std::int64_t d = 0; d < kDim; ++d) want[sz(d)] += weight[sz(j)] / sum * value(v, d);
  }
  // A key's mark has a weight of about 1 / keys, at least a third of that.
  const double mark = 0.25 / static_cast<double>(keys);
  for (std::int64_t d = 0; d < kDim; ++d) {
    const double got = value(out_.data(), at + d);
    const double rounding = type_ == DataType::f32 ? 0x1p-20 : 0x1p-8;
    if (std::fabs(got - want[sz(d)]) <= mark + rounding * std::fabs(want[sz(d)])) continue;
    return "sequence " + std::to_string(sequence) + ", query " + std::to_string(position) + ", head " +
           std::to_string(head) + " is " + std::to_string(got) + " at dim " + std::to_string(d) +
           ", expected " + std::to_string(want[sz(d)]);
  }
  return {};
}

std::string MixedStep::check() const {
  for (const std::int64_t sequence : {0, 0, 1, 20, 40, 62, 63}) {
    const std::int64_t queries = cu_seqlens_[sz(sequence + 1)] - cu_seqlens_[sz(sequence)];
    for (std::int64_t head = 0; head < kQueryHeads; head += 7) {
      if (std::string wrong = check_row(sequence, head * 16 % queries, head); !wrong.empty()) return wrong;
    }
  }
  return {};
}

}  // namespace kumiko::bench
