// SPDX-License-Identifier: Apache-2.0
// The attention of a text server's loop, with a paged cache of its own: prompts in chunks, tokens one by one,
// any number of sequences in each call, and a prefix that two sequences share. In place of a model, one layer
// whose query, key and value of a token are random numbers; at the end every sequence is computed again in
// one dense call, and the bits are compared.
#include <kumiko/attention.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

namespace {

constexpr std::int64_t kQueryHeads = 8, kHeads = 2, kDim = 64, kPageSize = 16, kPages = 256, kMaxPages = 64,
                       kChunk = 128;
constexpr std::int64_t kQuery = kQueryHeads * kDim, kRow = kHeads * kDim;  // floats of a token

struct Sequence {
  std::vector<int> tokens;          // prompt, then what was made of it
  std::vector<std::int32_t> pages;  // of the cache, in order
  std::int64_t done = 0;            // tokens whose keys and values are in the cache
  std::vector<float> outputs;       // of those tokens, [done][q_heads][dim]
};

// `count` numbers that depend on the token and its position alone.
void fill(int token, std::int64_t position, std::uint32_t what, float* to, std::int64_t count) {
  std::minstd_rand random(static_cast<std::uint32_t>(token * 7919 + position * 31) ^ what << 20);
  std::normal_distribution<float> normal;
  for (std::int64_t i = 0; i < count; ++i) to[i] = normal(random);
}

class Server {
 public:
  explicit Server(kumiko::Context context)
      : context_(std::move(context)), keys_(kPages * kPageSize * kRow), values_(keys_.size()) {
    for (std::int32_t page = kPages; page > 0; --page) free_.push_back(page - 1);
  }

  // One step: up to kChunk tokens of each sequence, all in one call.
  kumiko::Status step(std::vector<Sequence>& sequences) {
    std::vector<std::int32_t> cu_seqlens = {0}, used, table(sequences.size() * kMaxPages, -1);
    std::vector<float> q;
    for (std::size_t b = 0; b < sequences.size(); ++b) {
      Sequence& s = sequences[b];
      const std::int64_t length = static_cast<std::int64_t>(s.tokens.size()),
                         end = std::min(s.done + kChunk, length);
      for (std::int64_t i = s.done; i < end; ++i) append(s, i, &q);
      cu_seqlens.push_back(cu_seqlens.back() + static_cast<std::int32_t>(end - s.done));
      used.push_back(static_cast<std::int32_t>(end));
      std::copy(s.pages.begin(), s.pages.end(), table.begin() + static_cast<std::ptrdiff_t>(b * kMaxPages));
    }
    const std::int64_t total = cu_seqlens.back();
    std::vector<float> out(static_cast<std::size_t>(total * kQuery));
    const kumiko::AttentionArgs args{
        .q = kumiko::ConstTensor::bshd(q.data(), 1, total, kQueryHeads, kDim),
        .k = kumiko::ConstTensor::bshd(keys_.data(), kPages, kPageSize, kHeads, kDim),
        .v = kumiko::ConstTensor::bshd(values_.data(), kPages, kPageSize, kHeads, kDim),
        .out = kumiko::Tensor::bshd(out.data(), 1, total, kQueryHeads, kDim),
        .is_causal = true,
        .seqused_k = used.data(),
        .cu_seqlens_q = cu_seqlens.data(),
        .num_sequences = static_cast<std::int64_t>(sequences.size()),
        .block_table = table.data(),
        .max_pages = kMaxPages};
    if (kumiko::Status status = kumiko::attention_forward(context_, args); !status.ok()) return status;
    for (std::size_t b = 0; b < sequences.size(); ++b) {
      Sequence& s = sequences[b];
      s.done = used[b];
      s.outputs.insert(s.outputs.end(), out.begin() + cu_seqlens[b] * kQuery,
                       out.begin() + cu_seqlens[b + 1] * kQuery);
    }
    return {};
  }

  // A sequence with the first `keys` tokens of another, a whole number of pages, which both read.
  Sequence fork(const Sequence& from, std::int64_t keys) const {
    Sequence s;
    s.tokens.assign(from.tokens.begin(), from.tokens.begin() + keys);
    s.pages.assign(from.pages.begin(), from.pages.begin() + keys / kPageSize);
    s.outputs.assign(from.outputs.begin(), from.outputs.begin() + keys * kQuery);
    s.done = keys;
    return s;
  }

 private:
  void append(Sequence& s, std::int64_t i, std::vector<float>* q) {
    if (i == static_cast<std::int64_t>(s.pages.size()) * kPageSize) {
      s.pages.push_back(free_.back());
      free_.pop_back();
    }
    const std::int64_t row = (s.pages.back() * kPageSize + i % kPageSize) * kRow;
    fill(s.tokens[static_cast<std::size_t>(i)], i, 1, &keys_[static_cast<std::size_t>(row)], kRow);
    fill(s.tokens[static_cast<std::size_t>(i)], i, 2, &values_[static_cast<std::size_t>(row)], kRow);
    q->resize(q->size() + kQuery);
    fill(s.tokens[static_cast<std::size_t>(i)], i, 3, q->data() + q->size() - kQuery, kQuery);
  }

  kumiko::Context context_;
  std::vector<float> keys_, values_;  // [pages][page_size][heads][dim]
  std::vector<std::int32_t> free_;
};

// Whether the outputs are those of one dense call over the whole sequence, bit for bit.
bool same_as_dense(const kumiko::Context& context, const Sequence& s) {
  const auto n = static_cast<std::int64_t>(s.tokens.size());
  std::vector<float> q(s.outputs.size()), k(static_cast<std::size_t>(n * kRow)), v(k.size()), out(q.size());
  for (std::int64_t i = 0; i < n; ++i) {
    const int token = s.tokens[static_cast<std::size_t>(i)];
    fill(token, i, 1, &k[static_cast<std::size_t>(i * kRow)], kRow);
    fill(token, i, 2, &v[static_cast<std::size_t>(i * kRow)], kRow);
    fill(token, i, 3, &q[static_cast<std::size_t>(i * kQuery)], kQuery);
  }
  const kumiko::AttentionArgs args{.q = kumiko::ConstTensor::bshd(q.data(), 1, n, kQueryHeads, kDim),
                                   .k = kumiko::ConstTensor::bshd(k.data(), 1, n, kHeads, kDim),
                                   .v = kumiko::ConstTensor::bshd(v.data(), 1, n, kHeads, kDim),
                                   .out = kumiko::Tensor::bshd(out.data(), 1, n, kQueryHeads, kDim),
                                   .is_causal = true};
  return kumiko::attention_forward(context, args).ok() &&
         std::memcmp(out.data(), s.outputs.data(), out.size() * sizeof(float)) == 0;
}

}  // namespace

int main() {
  kumiko::Context context;
  kumiko::Status status = kumiko::Context::create({}, &context);
  if (!status.ok()) return std::printf("%s\n", status.message().c_str()), 1;
  Server server(context);
  std::vector<Sequence> sequences(2);
  for (int i = 0; i < 500; ++i) sequences[0].tokens.push_back(i % 97);
  for (int i = 0; i < 30; ++i) sequences[1].tokens.push_back(i % 13);
  for (int step = 0; step < 40 && status.ok(); ++step) {
    if (step == 6) {  // a third user asks another question about the first one's text
      sequences.push_back(server.fork(sequences[0], 480));
      for (int i = 0; i < 20; ++i) sequences.back().tokens.push_back(i % 29);
    }
    status = server.step(sequences);
    for (Sequence& s : sequences)  // in place of sampling; a prompt that is not done yet gets no token
      if (s.done == static_cast<std::int64_t>(s.tokens.size()))
        s.tokens.push_back(static_cast<int>(s.outputs.back() * 1000));
  }
  for (Sequence& s : sequences) s.tokens.resize(static_cast<std::size_t>(s.done));
  if (!status.ok()) return std::printf("%s\n", status.message().c_str()), 1;
  for (const Sequence& s : sequences) {
    const bool same = same_as_dense(context, s);
    std::printf("%zu tokens in %zu pages: %s\n", s.tokens.size(), s.pages.size(),
                same ? "the bits of one dense call" : "WRONG");
    if (!same) return 1;
  }
}
