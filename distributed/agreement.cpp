// SPDX-License-Identifier: Apache-2.0
#include "distributed/agreement.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

namespace kumiko::distributed {
namespace {

constexpr std::size_t kMostEntries = 48;

/// FNV-1a (Fowler, Noll & Vo; RFC 9923).
std::uint64_t hash(const void* data, std::size_t bytes, std::uint64_t from = 0xcbf29ce484222325u) {
  for (std::size_t i = 0; i < bytes; ++i)
    from = (from ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3u;
  return from;
}

/// What travels where a rank has an error.
struct Verdict {
  int code = 0;
  char text[500] = "";
};

}  // namespace

void Digest::add(const char* name, const void* data, std::size_t bytes) {
  names_.push_back(name);
  hashes_.push_back(data ? hash(data, bytes) : 0);
}

void Digest::add(const AttentionArgs& a, bool has_all_rows) {
  const std::int64_t sequences = a.cu_seqlens_q ? a.num_sequences : a.q.shape[0];
  const auto count = static_cast<std::size_t>(std::max<std::int64_t>(sequences, 0));
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
  add_value("num_sequences", sequences);
  add_value("bsr_rows", a.bsr_rows);
  add_value("bsr_keys", a.bsr_keys);
  const auto heads = static_cast<std::size_t>(std::max<std::int64_t>(a.q.shape[1], 0));
  list("sinks", a.sinks, heads);
  list("alibi_slopes", a.alibi_slopes, heads);
  list("seqused_k", a.seqused_k, count);
  list("causal_sequences", a.causal_sequences, count);
  list("prefix_lens", a.prefix_lens, count);
  list("cu_seqlens_q", a.cu_seqlens_q, count + 1);
}

Status agree(Transport& transport, const Digest& digest, const Status& mine) {
  // The largest of hashes and of their complements: these belong together if all are the same.
  // A rank with an error may have none; the numbers of words must be the same.
  const auto words = std::make_shared<std::vector<std::uint64_t>>(2 * kMostEntries + 1, 0);
  for (std::size_t i = 0; i < digest.hashes_.size() && mine.ok(); ++i) {
    (*words)[2 * i] = digest.hashes_[i];
    (*words)[2 * i + 1] = ~digest.hashes_[i];
  }
  // The largest is that of the lowest rank with an error.
  words->back() = mine.ok() ? 0 : static_cast<std::uint64_t>(transport.size() - transport.rank());
  MPI_Request request = MPI_REQUEST_NULL;
  transport.reduce_max(words.get(), &request);
  if (!transport.wait(&request)) {
    transport.keep(words);
    return transport.status();
  }
  if (const std::uint64_t worst = words->back(); worst > 0) {
    const int root = transport.size() - static_cast<int>(worst);
    const auto verdict = std::make_shared<Verdict>();
    if (root == transport.rank()) {
      verdict->code = static_cast<int>(mine.code());
      const std::size_t length = std::min(mine.message().size(), sizeof verdict->text - 1);
      std::memcpy(verdict->text, mine.message().data(), length);
    }
    transport.broadcast(verdict.get(), sizeof(Verdict), root, &request);
    if (!transport.wait(&request)) {
      transport.keep(verdict);
      return transport.status();
    }
    return {static_cast<Code>(verdict->code), "on rank " + std::to_string(root) + ": " + verdict->text};
  }
  for (std::size_t i = 0; i < digest.names_.size(); ++i) {
    if ((*words)[2 * i] != ~(*words)[2 * i + 1])
      return {Code::invalid_argument,
              std::string(digest.names_[i]) + " differs between ranks; expected the same on all"};
  }
  return {};
}

}  // namespace kumiko::distributed
