// SPDX-License-Identifier: Apache-2.0
#include "bench/problem.h"

#include <algorithm>
#include <cmath>

namespace kumiko::bench {
namespace {

// Value vectors. Each value has +-1 in one dimension, its mark, on a background small enough not to hide it.
// With n keys and d dimensions, a dropped key is one of n / d marks of random sign in its dimension, and
// changes their sum by more than the sum's rounding. Every eighth dimension has the same value for all keys
// of a kind: it changes when the weights of the kinds do, as with another scale.
constexpr std::int64_t kKindEvery = 8;
constexpr float kBackground = 0x1p-5f;  // Of uniform()'s 2: [-1/16, 1/16).
// Scores then have a standard deviation of 2/3: no key's weight is far from the mean.
constexpr float kKeySize = 0.5f;

constexpr std::uint64_t kSeed = 0xd1b54a32d192ed03ull;

// The dimension of the mark of a sequence's n-th key: every eighth dimension is skipped.
std::int64_t mark_of(std::int64_t n, std::int64_t dim) {
  const std::int64_t marks = dim - dim / kKindEvery;
  const std::int64_t mark = n % marks;
  return mark + mark / (kKindEvery - 1);
}
bool of_kind(std::int64_t d) {
  return d % kKindEvery == kKindEvery - 1;
}

std::size_t lines(std::int64_t bytes) {
  return static_cast<std::size_t>((bytes + 127) / 128 * 128);
}

int sets_of(std::size_t cache_bytes, std::size_t set_bytes) {
  return static_cast<int>(std::max<std::size_t>(1, (cache_bytes + set_bytes - 1) / set_bytes));
}

std::int64_t keys_of(const Shape& s) {
  return s.batch * s.kv_heads * s.kv_len;
}

std::size_t key_bytes_of(const Shape& s) {
  return lines(keys_of(s) * s.head_dim * bytes_of(s.type));
}

std::int64_t queries_of(const Shape& s) {
  return s.cu_seqlens_q.empty() ? s.batch * s.q_len : s.cu_seqlens_q.back();
}

}  // namespace

Problem::Problem(const Shape& shape, std::size_t cache_bytes)
    : shape_(shape),
      value_offset_(shape.latent ? 0 : key_bytes_of(shape)),
      set_bytes_(shape.latent
                     ? key_bytes_of(shape)
                     : value_offset_ + lines(keys_of(shape) * shape.v_head_dim * bytes_of(shape.type))),
      sets_(sets_of(cache_bytes, set_bytes_)),
      cache_(static_cast<std::size_t>(sets_) * set_bytes_) {
  const std::int64_t bytes = bytes_of(shape.type);
  const std::int64_t rows = shape.q_heads * queries_of(shape);
  q_.resize(static_cast<std::size_t>(rows * shape.head_dim * bytes));
  out_.resize(static_cast<std::size_t>(rows * shape.v_head_dim * bytes));
  Random random(kSeed);
  const auto element = [&](float x) { return shape.is_int8 ? std::nearbyint(x / kInt8Step) * kInt8Step : x; };
  for (std::size_t i = 0; i < q_.size(); i += static_cast<std::size_t>(bytes))
    store_rounded(shape.type, element(random.uniform()), q_.data() + i);
  for (std::int64_t i = 0; i < kKinds * shape.head_dim; ++i) {
    std::byte rounded[4];
    store_rounded(shape.type, element(kKeySize * random.uniform()), rounded);
    kind_keys_.push_back(load_widened(shape.type, rounded));
  }
  kinds_.resize(static_cast<std::size_t>(sets_ * keys_of(shape)));
  for (int set = 0; set < sets_; ++set) fill(set);
  if (shape.mask_form == MaskForm::tree)
    make_tree();
  else if (shape.mask_block > 0)
    make_mask();
}

void Problem::fill(int set) {
  const Shape& s = shape_;
  const std::int64_t bytes = bytes_of(s.type);
  Random random(kSeed + static_cast<std::uint64_t>(set + 1) * 0x9e3779b97f4a7c15ull);
  Random of_kinds(kSeed);
  std::vector<float> kind_values(static_cast<std::size_t>(kKinds * s.v_head_dim));
  for (float& x : kind_values) x = 0.5f * of_kinds.uniform();
  std::vector<std::byte> kind_rows(static_cast<std::size_t>(kKinds * s.head_dim * bytes));
  for (std::size_t i = 0; i < kind_keys_.size(); ++i)
    store_rounded(s.type, static_cast<float>(kind_keys_[i]),
                  kind_rows.data() + i * static_cast<std::size_t>(bytes));
  for (std::int64_t b = 0; b < s.batch; ++b) {
    for (std::int64_t h = 0; h < s.kv_heads; ++h) {
      for (std::int64_t j = 0; j < s.kv_len; ++j) {
        const std::int64_t kind = random.below(kKinds), mark = mark_of(j, s.v_head_dim);
        kinds_[kind_at(set, b, h, j)] = static_cast<std::uint8_t>(kind);
        std::copy_n(kind_rows.data() + kind * s.head_dim * bytes, s.head_dim * bytes,
                    keys(set) + key_at(b, h, j, s.head_dim) * bytes);
        // In a latent the elements behind the value stay those of the key's kind.
        std::byte* value = values(set) + value_at(b, h, j) * bytes;
        const float sign = random.below(2) == 0 ? 1.0f : -1.0f;
        for (std::int64_t d = 0; d < s.v_head_dim; ++d) {
          const float x = of_kind(d) ? kind_values[static_cast<std::size_t>(kind * s.v_head_dim + d)]
                                     : kBackground * random.uniform() + (d == mark ? sign : 0.0f);
          store_rounded(s.type, x, value + d * bytes);
        }
      }
    }
  }
}

void Problem::make_mask() {
  const Shape& s = shape_;
  const std::int64_t across = (s.kv_len + s.mask_block - 1) / s.mask_block;
  const std::int64_t down = (s.q_len + s.mask_block - 1) / s.mask_block;
  Random random(kSeed ^ 1);
  std::vector<std::uint8_t> shown(static_cast<std::size_t>(across * down));
  for (std::uint8_t& square : shown) square = random.below(2) != 0;
  mask_.resize(static_cast<std::size_t>(s.q_len * s.kv_len));
  for (std::int64_t i = 0; i < s.q_len; ++i) {
    for (std::int64_t j = 0; j < s.kv_len; ++j)
      mask_[static_cast<std::size_t>(i * s.kv_len + j)] =
          shown[static_cast<std::size_t>(i / s.mask_block * across + j / s.mask_block)];
  }
  if (s.mask_form == MaskForm::key_blocks) list_blocks(shown);
}

void Problem::list_blocks(const std::vector<std::uint8_t>& shown) {
  const Shape& s = shape_;
  const std::int64_t across = (s.kv_len + s.mask_block - 1) / s.mask_block;
  block_begin_ = {0};
  for (std::int64_t b = 0; b < s.batch; ++b) {
    for (std::size_t at = 0; at < shown.size(); ++at) {
      const auto block = static_cast<std::int32_t>(static_cast<std::int64_t>(at) % across);
      if (shown[at] != 0) blocks_.push_back(block);
      if (block == across - 1) block_begin_.push_back(static_cast<std::int32_t>(blocks_.size()));
    }
  }
}

void Problem::make_tree() {
  const Shape& s = shape_;
  const std::int64_t row_bytes = (s.q_len + 7) / 8, before = s.kv_len - s.q_len;
  Random random(kSeed ^ 3);
  mask_.assign(static_cast<std::size_t>(s.q_len * s.kv_len), 0);
  std::vector<std::uint8_t> bits(static_cast<std::size_t>(s.q_len * row_bytes));
  for (std::int64_t i = 0; i < s.q_len; ++i) {
    // The parent's keys, and the query's own.
    const std::int64_t parent = i > 0 ? random.below(i) : -1;
    std::uint8_t* const row = mask_.data() + i * s.kv_len;
    if (parent >= 0)
      std::copy_n(mask_.data() + parent * s.kv_len, s.kv_len, row);
    else
      std::fill_n(row, before, std::uint8_t{1});
    row[before + i] = 1;
    for (std::int64_t t = 0; t < s.q_len; ++t)
      bits[static_cast<std::size_t>(i * row_bytes + t / 8)] |=
          static_cast<std::uint8_t>(row[before + t] << t % 8);
  }
  for (std::int64_t b = 0; b < s.batch; ++b) tree_.insert(tree_.end(), bits.begin(), bits.end());
}

std::span<const std::byte> Problem::cache() const {
  constexpr std::size_t kPage = 4096;  // Pages are of whole 2 MiB.
  return {cache_.data(), (static_cast<std::size_t>(sets_) * set_bytes_ + kPage - 1) / kPage * kPage};
}

namespace {

std::int64_t used_keys(const Shape& s, std::int64_t batch) {
  return s.seqused_k.empty() ? s.kv_len : s.seqused_k[static_cast<std::size_t>(batch)];
}

/// From one sequence's first page to the next one's, in pages.
std::int64_t pages_apart(const Shape& s) {
  return (s.bshd ? 1 : s.kv_heads) * s.kv_len / s.page_keys;
}

/// A dense tensor of keys or values as pages.
void see_as_pages(const Shape& s, ConstTensor* view) {
  // Without the pages from which another head's keys would begin behind the end of memory.
  view->shape[0] = s.batch * pages_apart(s) - (s.bshd ? 0 : (s.kv_heads - 1) * s.kv_len / s.page_keys);
  view->stride[0] = s.page_keys * view->stride[2];
  view->shape[2] = s.page_keys;
}

}  // namespace

// Only whole used pages change places, so that the dense tensor has the same keys in use.
Shape in_pages(Shape s, std::int64_t page_keys) {
  s.page_keys = page_keys;
  Random random(kSeed ^ 2);
  for (std::int64_t b = 0; b < s.batch; ++b) {
    const std::int64_t begin = std::ssize(s.block_table), whole = used_keys(s, b) / page_keys;
    for (std::int64_t i = 0; i < s.kv_len / page_keys; ++i) {
      s.block_table.push_back(static_cast<std::int32_t>(b * pages_apart(s) + i));
      if (i < whole)
        std::swap(s.block_table.back(), s.block_table[static_cast<std::size_t>(begin + random.below(i + 1))]);
    }
    for (std::int64_t i = 0; b > 0 && i < s.shared_keys / page_keys; ++i)
      s.block_table[static_cast<std::size_t>(begin + i)] = s.block_table[static_cast<std::size_t>(i)];
  }
  if (s.seqused_k.empty())
    s.seqused_k.assign(static_cast<std::size_t>(s.batch), static_cast<std::int32_t>(s.kv_len));
  return s;
}

AttentionArgs arguments(const Shape& s) {
  const auto view = [&s]<class View>(std::int64_t batch, std::int64_t heads, std::int64_t len,
                                     std::int64_t dim, View) {
    return s.bshd ? View::bshd(nullptr, batch, len, heads, dim, s.type)
                  : View::bhsd(nullptr, batch, heads, len, dim, s.type);
  };
  const std::int64_t batch = s.cu_seqlens_q.empty() ? s.batch : 1, queries = queries_of(s) / batch;
  AttentionArgs a;
  a.q = view(batch, s.q_heads, queries, s.head_dim, ConstTensor{});
  a.k = view(s.batch, s.kv_heads, s.kv_len, s.head_dim, ConstTensor{});
  a.v = view(s.batch, s.kv_heads, s.kv_len, s.v_head_dim, ConstTensor{});
  if (s.latent) a.v.stride = a.k.stride;
  a.out = view(batch, s.q_heads, queries, s.v_head_dim, Tensor{});
  if (!s.cu_seqlens_q.empty()) {
    a.cu_seqlens_q = s.cu_seqlens_q.data();
    a.num_sequences = s.batch;
  }
  a.is_causal = s.is_causal;
  a.window_left = s.window_left;
  // plan() only looks at whether these pointers are null.
  static constexpr std::int32_t kSomewhere = 0;
  static constexpr std::uint8_t kSomeBits = 0;
  if (s.mask_form == MaskForm::key_blocks) {
    a.bsr_indptr = a.bsr_indices = &kSomewhere;
    a.bsr_rows = a.bsr_keys = s.mask_block;
  } else if (s.mask_form == MaskForm::tree) {
    a.tree_mask = &kSomeBits;
  } else if (s.mask_block > 0) {
    a.mask = ConstTensor::bhsd(nullptr, s.batch, s.q_heads, s.q_len, s.kv_len, DataType::boolean);
    a.mask.stride[0] = a.mask.stride[1] = 0;
  }
  a.seqused_k = s.seqused_k.empty() ? nullptr : s.seqused_k.data();
  if (s.page_keys > 0) {
    see_as_pages(s, &a.k);
    see_as_pages(s, &a.v);
    a.block_table = s.block_table.data();
    a.max_pages = s.kv_len / s.page_keys;
  }
  return a;
}

AttentionArgs Problem::args(int set) const {
  AttentionArgs a = arguments(shape_);
  a.q.data = q_.data();
  a.k.data = keys(set);
  a.v.data = values(set);
  a.out.data = const_cast<std::byte*>(out_.data());
  if (shape_.mask_form == MaskForm::booleans && !mask_.empty()) a.mask.data = mask_.data();
  if (!tree_.empty()) a.tree_mask = tree_.data();
  if (!block_begin_.empty()) a.bsr_indptr = block_begin_.data(), a.bsr_indices = blocks_.data();
  return a;
}

double Problem::memory_bytes(const Shape& s, std::size_t cache_bytes) {
  const auto real = [](std::int64_t n) { return static_cast<double>(n); };
  const double dims = real(s.head_dim) + (s.latent ? 0 : real(s.v_head_dim)), bytes = real(bytes_of(s.type));
  const double keys = real(s.batch) * real(s.kv_heads) * real(s.kv_len);
  const double queries = s.cu_seqlens_q.empty() ? real(s.batch) * real(s.q_len) : real(s.cu_seqlens_q.back());
  const double rows = queries * real(s.q_heads);
  const double sets = std::max(1.0, std::ceil(static_cast<double>(cache_bytes) / (keys * dims * bytes)));
  const double mask = s.mask_block > 0 ? real(s.q_len) * real(s.kv_len) : 0;
  return sets * keys * (dims * bytes + 1) + rows * (real(s.head_dim) + real(s.v_head_dim)) * bytes + mask;
}

std::int64_t Problem::row_at(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t dim) const {
  const Shape& s = shape_;
  const bool packed = !s.cu_seqlens_q.empty();
  const std::int64_t sequence = packed ? 0 : b, position = packed ? q_begin(b) + i : i,
                     queries = packed ? queries_of(s) : s.q_len;
  return (s.bshd ? (sequence * queries + position) * s.q_heads + h
                 : (sequence * s.q_heads + h) * queries + position) *
         dim;
}

std::int64_t Problem::q_len(std::int64_t batch) const {
  return shape_.cu_seqlens_q.empty() ? shape_.q_len : q_begin(batch + 1) - q_begin(batch);
}

std::int64_t Problem::q_begin(std::int64_t batch) const {
  return shape_.cu_seqlens_q.empty() ? 0 : shape_.cu_seqlens_q[static_cast<std::size_t>(batch)];
}

std::int64_t Problem::key_at(std::int64_t b, std::int64_t h, std::int64_t j, std::int64_t dim) const {
  const Shape& s = shape_;
  const auto [batch, key] = place_of(b, j);
  return (s.bshd ? (batch * s.kv_len + key) * s.kv_heads + h : (batch * s.kv_heads + h) * s.kv_len + key) *
         dim;
}

Problem::Place Problem::place_of(std::int64_t b, std::int64_t j) const {
  const Shape& s = shape_;
  if (s.page_keys == 0) return {b, j};
  const std::int64_t page =
      s.block_table[static_cast<std::size_t>(b * (s.kv_len / s.page_keys) + j / s.page_keys)];
  return {page / pages_apart(s), page % pages_apart(s) * s.page_keys + j % s.page_keys};
}

std::size_t Problem::kind_at(int set, std::int64_t b, std::int64_t h, std::int64_t j) const {
  const auto [batch, key] = place_of(b, j);
  return static_cast<std::size_t>(((set * shape_.batch + batch) * shape_.kv_heads + h) * shape_.kv_len + key);
}

std::int64_t Problem::used(std::int64_t batch) const {
  return used_keys(shape_, batch);
}

Problem::Range Problem::range(std::int64_t batch, std::int64_t row) const {
  const std::int64_t keys = used(batch), position = row + keys - q_len(batch);
  const std::int64_t end = shape_.is_causal ? std::clamp<std::int64_t>(position + 1, 0, keys) : keys;
  return {shape_.window_left < 0 ? 0 : std::clamp<std::int64_t>(position - shape_.window_left, 0, end), end};
}

bool Problem::sees(std::int64_t batch, std::int64_t row, std::int64_t key) const {
  const Range keys = range(batch, row);
  if (key < keys.first || key >= keys.end) return false;
  return mask_.empty() || mask_[static_cast<std::size_t>(row * shape_.kv_len + key)] != 0;
}

std::int64_t Problem::visible(std::int64_t batch, std::int64_t row) const {
  const Range keys = range(batch, row);
  if (mask_.empty()) return keys.end - keys.first;
  std::int64_t count = 0;
  for (std::int64_t key = keys.first; key < keys.end; ++key) count += sees(batch, row, key);
  return count;
}

double Problem::useful_flops() const {
  double scores = 0;
  for (std::int64_t b = 0; b < shape_.batch; ++b) {
    for (std::int64_t i = 0; i < q_len(b); ++i) scores += static_cast<double>(visible(b, i));
  }
  return scores * static_cast<double>(shape_.q_heads * 2 * (shape_.head_dim + shape_.v_head_dim));
}

double Problem::kv_bytes() const {
  double keys = 0;
  for (std::int64_t b = 0; b < shape_.batch; ++b)
    keys += static_cast<double>(range(b, q_len(b) - 1).end - range(b, 0).first -
                                (b > 0 ? shape_.shared_keys : 0));
  return keys *
         static_cast<double>(shape_.kv_heads * (shape_.head_dim + (shape_.latent ? 0 : shape_.v_head_dim)) *
                             bytes_of(shape_.type));
}

void Problem::poison() {
  std::fill(out_.begin(), out_.end(), std::byte{0xff});  // A NaN in every type.
}

}  // namespace kumiko::bench
