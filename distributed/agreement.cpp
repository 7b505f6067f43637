// SPDX-License-Identifier: Apache-2.0
#include "distributed/agreement.h"

#include <array>
#include <cstdio>
#include <stdexcept>
#include <string>

namespace kumiko::distributed {
namespace {

/// FNV-1a (Fowler, Noll & Vo; RFC 9923).
constexpr std::uint64_t kBasis = 0xcbf29ce484222325u;
std::uint64_t hash(const void* data, std::size_t bytes, std::uint64_t from = kBasis) {
  for (std::size_t i = 0; i < bytes; ++i)
    from = (from ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3u;
  return from;
}

}  // namespace

void Digest::add(const char* name, const void* data, std::size_t bytes) {
  if (count_ == kMostEntries) throw std::length_error("digest is full");
  names_[count_] = {of_, name};
  hashes_[count_++] = data ? hash(data, bytes) : 0;
}

void Digest::add(const AttentionArgs& a, std::int64_t sequences, bool has_all_rows, const char* of) {
  of_ = of;
  const auto count = static_cast<std::size_t>(sequences), heads = static_cast<std::size_t>(a.q.shape[1]);
  const auto shape = [&](const char* name, const auto& view, bool rows) {
    std::array<std::int64_t, 5> kept{static_cast<std::int64_t>(view.dtype), view.shape[1], view.shape[3]};
    if (rows) kept[3] = view.shape[0], kept[4] = view.shape[2];
    add_value(name, kept);
  };
  const auto given = [&](const char* name, const void* pointer) { add_value(name, pointer != nullptr); };
  const auto list = [&](const char* name, const auto* entries, std::size_t size) {
    add(name, entries, size * sizeof *entries);
  };
  shape("q", a.q, has_all_rows);
  shape("k", a.k, false);
  shape("v", a.v, false);
  shape("out", a.out, has_all_rows);
  given("lse", a.lse.data);
  given("row_max", a.row_max.data);
  given("bias", a.bias.data);
  given("mask", a.mask.data);
  given("q_scale", a.q_scale.data);
  given("k_scale", a.k_scale.data);
  given("tree_mask", a.tree_mask);
  given("bsr_indptr", a.bsr_indptr);
  given("block_table", a.block_table);
  add_value("scale", a.scale);
  add_value("softcap", a.softcap);
  add_value("is_causal", a.is_causal);
  add_value("causal_alignment", a.causal_alignment);
  add_value("window_left", a.window_left);
  add_value("window_right", a.window_right);
  add_value("window_sink_tokens", a.window_sink_tokens);
  add_value("lse_with_sink", a.lse_with_sink);
  add_value("lse_base", a.lse_base);
  add_value("precision", a.precision);
  if (has_all_rows) add_value("num_sequences", sequences);
  add_value("bsr_rows", a.bsr_rows);
  add_value("bsr_keys", a.bsr_keys);
  list("sinks", a.sinks, heads);
  std::uint64_t slopes = kBasis;
  for (std::int64_t b = 0; a.alibi_slopes && b < (a.alibi_batch_stride ? sequences : 1); ++b)
    slopes = hash(a.alibi_slopes + b * a.alibi_batch_stride, heads * sizeof(float), slopes);
  add_value("alibi_slopes", slopes);
  list("seqused_k", a.seqused_k, count);
  list("causal_sequences", a.causal_sequences, count);
  list("prefix_lens", a.prefix_lens, count);
  list("cu_seqlens_q", a.cu_seqlens_q, count + 1);
  of_ = "";
}

Agreement::Agreement(Transport& transport, const Digest& digest, const Status& mine)
    : transport_(transport), digest_(digest), mine_(mine) {
  // The maxima of the hashes and of their complements are complements of each other only if all hashes are
  // the same. A rank with an error may have no hashes, but the number of words must be the same on all ranks.
  static_assert(kWords <= Transport::kMostWords);
  for (std::size_t i = 0; i < digest.count_ && mine.ok(); ++i) {
    words_[2 * i] = digest.hashes_[i];
    words_[2 * i + 1] = ~digest.hashes_[i];
  }
  // Positive numbers are in the order of their bits.
  for (std::size_t i = 0; i < digest.least.size(); ++i)
    words_[kLeast + i] = ~std::bit_cast<std::uint64_t>(digest.least[i]);
  // The maximum is the word of the lowest rank with an error.
  words_.back() = mine.ok() ? 0 : static_cast<std::uint64_t>(transport.size() - transport.rank());
  transport.start_reduce_max(words_, &request_);
}

Status Agreement::finish() {
  if (!transport_.finish_reduce_max(&request_, words_)) return transport_.status();
  if (words_.back() > 0) {
    const int root = transport_.size() - static_cast<int>(words_.back());
    Transport::Verdict verdict;
    if (root == transport_.rank()) {
      verdict.code = static_cast<std::int32_t>(mine_.code());
      std::snprintf(verdict.text, sizeof verdict.text, "%s", mine_.message().c_str());
    }
    if (!transport_.broadcast(&verdict, root)) return transport_.status();
    return {static_cast<Code>(verdict.code), "on rank " + std::to_string(root) + ": " + verdict.text};
  }
  for (std::size_t i = 0; i < digest_.count_; ++i) {
    const auto& [of, name] = digest_.names_[i];
    if (words_[2 * i] != ~words_[2 * i + 1])
      return {Code::invalid_argument,
              std::string(of) + name + " differs between ranks; expected the same on all"};
  }
  return {};
}

}  // namespace kumiko::distributed
