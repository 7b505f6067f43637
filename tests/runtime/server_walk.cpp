// SPDX-License-Identifier: Apache-2.0
#include "tests/runtime/server_walk.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "kernels/element.h"
#include "runtime/problem.h"
#include "tests/reference/error_promise.h"
#include "tests/support/key_tiles.h"
#include "tests/support/numbers.h"

namespace kumiko::test {
namespace {

constexpr std::int64_t kMostRequests = 6, kMostSpeculative = 5, kIdleRows = 2;

std::int64_t size_of(DataType type) {
  return kernels::bytes_of(element_of(type));
}
Flush flush(std::uint64_t bits) {
  return bits % 2 == 0 ? Flush::front : Flush::back;
}

}  // namespace

std::ostream& operator<<(std::ostream& os, const WalkShape& s) {
  return os << "heads " << s.q_heads << "/" << s.kv_heads << " dims " << s.head_dim << "/" << s.v_head_dim
            << " type " << static_cast<int>(s.type) << ", " << s.pages << " pages of " << s.page_keys
            << (s.key_tiles ? " in tiles" : "") << (s.heads_last ? " heads last" : "")
            << (s.page_lists ? " listed" : "") << ", window " << s.window_left << ", sinks " << s.sinks
            << ", prompts up to " << s.longest_prompt << " in chunks of " << s.longest_chunk << ", seed "
            << s.seed;
}

ServerWalk::Rounded::Rounded(const Shape& shape, Layout layout, DataType of)
    : wide(shape, layout, Flush::back), type(of) {
  if (type != DataType::f32) narrow = NarrowTensor(wide, type, Flush::back);
}

void ServerWalk::Rounded::store() const {
  if (type == DataType::f32) return;
  wide.round_to(type);
  narrow.copy(wide);
}

ServerWalk::ServerWalk(const WalkShape& shape)
    : shape_(shape),
      random_(shape.seed),
      key_cache_(sz(shape.pages * shape.kv_heads * shape.page_keys * shape.head_dim * size_of(shape.type)),
                 flush(shape.seed)),
      value_cache_(
          sz(shape.pages * shape.kv_heads * shape.page_keys * shape.v_head_dim * size_of(shape.type)),
          flush(shape.seed / 2)),
      free_(sz(shape.pages)),
      users_(sz(shape.pages)) {
  // NaN of every type.
  std::memset(key_cache_.data(), 0xff, key_cache_.size());
  std::memset(value_cache_.data(), 0xff, value_cache_.size());
  std::iota(free_.begin(), free_.end(), 0);
  for (std::int64_t h = 0; h < shape.q_heads; ++h) sinks_.push_back(random_.normal());
}

std::int64_t ServerWalk::dim_of(Row row) const {
  return row == Row::value ? shape_.v_head_dim : shape_.head_dim;
}

/// All heads of a token's row, before rounding.
std::vector<float> ServerWalk::row_of(std::uint64_t token, Row row) const {
  Random random(shape_.seed ^ (token * 4 + static_cast<std::uint64_t>(row)));
  std::vector<float> all(sz((row == Row::query ? shape_.q_heads : shape_.kv_heads) * dim_of(row)));
  for (float& x : all) x = random.normal();
  return all;
}

std::size_t ServerWalk::place(Row row, std::int64_t page, std::int64_t head, std::int64_t key,
                              std::int64_t dim) const {
  const Tensor pages = cache(row);
  const std::int64_t bytes = size_of(shape_.type), first = page * pages.stride[0] + head * pages.stride[1];
  if (row == Row::key && shape_.key_tiles)
    return sz((first + place_in_tiles(bytes, shape_.head_dim, key, dim)) * bytes);
  return sz((first + key * pages.stride[2] + dim) * bytes);
}

Tensor ServerWalk::cache(Row row) const {
  std::byte* const data = row == Row::key ? key_cache_.data() : value_cache_.data();
  const WalkShape& s = shape_;
  return s.heads_last && !(row == Row::key && s.key_tiles)
             ? Tensor::bshd(data, s.pages, s.page_keys, s.kv_heads, dim_of(row), s.type)
             : Tensor::bhsd(data, s.pages, s.kv_heads, s.page_keys, dim_of(row), s.type);
}

void ServerWalk::poison_key(std::int32_t page, std::int64_t key) {
  for (const Row row : {Row::key, Row::value})
    for (std::int64_t h = 0; h < shape_.kv_heads; ++h)
      for (std::int64_t d = 0; d < dim_of(row); ++d)
        std::memset((row == Row::key ? key_cache_ : value_cache_).data() + place(row, page, h, key, d), 0xff,
                    sz(size_of(shape_.type)));
}

void ServerWalk::copy_key(std::int32_t from, std::int32_t to, std::int64_t key) {
  for (const Row row : {Row::key, Row::value}) {
    std::byte* const data = (row == Row::key ? key_cache_ : value_cache_).data();
    for (std::int64_t h = 0; h < shape_.kv_heads; ++h)
      for (std::int64_t d = 0; d < dim_of(row); ++d)
        std::memcpy(data + place(row, to, h, key, d), data + place(row, from, h, key, d),
                    sz(size_of(shape_.type)));
  }
}

void ServerWalk::release(std::int32_t page) {
  if (--users_[sz(page)] > 0) return;
  for (std::int64_t key = 0; key < shape_.page_keys; ++key) poison_key(page, key);
  free_.insert(free_.begin() + random_.between(0, static_cast<std::int64_t>(free_.size())), page);
}

void ServerWalk::admit() {
  requests_.emplace_back();
  const std::int64_t longest = random_.one_in(3) ? 5 : shape_.longest_prompt;
  requests_.back().prompt_left = random_.between((longest + 1) / 2, longest);
}

/// Another request with the same beginning: whole pages are shared, the rest of one is copied.
void ServerWalk::fork() {
  const Request parent = random_.pick(requests_);
  const std::int64_t count = random_.one_in(2)
                                 ? static_cast<std::int64_t>(parent.tokens.size())
                                 : random_.between(0, static_cast<std::int64_t>(parent.tokens.size()));
  const std::int64_t whole = count / shape_.page_keys, rest = count % shape_.page_keys;
  if (rest > 0 && free_.empty()) return;
  Request child;
  child.tokens.assign(parent.tokens.begin(), parent.tokens.begin() + count);
  child.pages.assign(parent.pages.begin(), parent.pages.begin() + whole);
  for (const std::int32_t page : child.pages) ++users_[sz(page)];
  if (rest > 0) {
    const std::int32_t page = free_.back();
    free_.pop_back();
    users_[sz(page)] = 1;
    for (std::int64_t key = 0; key < rest; ++key) copy_key(parent.pages[sz(whole)], page, key);
    child.pages.push_back(page);
  }
  requests_.push_back(std::move(child));
  ++events_.forks;
}

void ServerWalk::finish(std::size_t index) {
  for (const std::int32_t page : requests_[index].pages) release(page);
  requests_.erase(requests_.begin() + static_cast<std::ptrdiff_t>(index));
  ++events_.finished;
}

/// Forgets some of the last step's tokens, as a verifier does with what a draft model got wrong.
void ServerWalk::reject(Request& request) {
  for (std::int64_t left = random_.between(1, request.new_tokens - 1); left > 0; --left) {
    request.tokens.pop_back();
    const std::int64_t key = static_cast<std::int64_t>(request.tokens.size());
    poison_key(request.pages[sz(key / shape_.page_keys)], key % shape_.page_keys);
    if (key % shape_.page_keys != 0) continue;
    release(request.pages.back());
    request.pages.pop_back();
  }
  ++events_.rejected;
}

/// `count` new tokens, if there are pages for them.
bool ServerWalk::grow(Request& request, std::int64_t count) {
  const std::int64_t keys = static_cast<std::int64_t>(request.tokens.size()) + count,
                     pages = (keys + shape_.page_keys - 1) / shape_.page_keys -
                             static_cast<std::int64_t>(request.pages.size());
  if (pages > static_cast<std::int64_t>(free_.size())) return false;
  for (std::int64_t i = 0; i < pages; ++i) {
    request.pages.push_back(free_.back());
    free_.pop_back();
    users_[sz(request.pages.back())] = 1;
  }
  for (std::int64_t i = 0; i < count; ++i) request.tokens.push_back(next_token_++);
  request.new_tokens = count;
  return true;
}

void ServerWalk::next_step() {
  for (Request& request : requests_)
    if (request.new_tokens > 1 && request.new_tokens <= kMostSpeculative && random_.one_in(2))
      reject(request);
  for (Request& request : requests_) request.new_tokens = 0;
  if (requests_.size() > 1 && random_.one_in(12))
    finish(sz(random_.between(0, static_cast<std::int64_t>(requests_.size()) - 1)));
  if (requests_.empty() || (requests_.size() < kMostRequests && random_.one_in(4))) {
    if (!requests_.empty() && random_.one_in(2))
      fork();
    else
      admit();
  }
  bool has_chunk = false, has_decode = false;
  for (std::size_t i = 0; i < requests_.size();) {
    Request& request = requests_[i];
    const bool is_chunk = request.prompt_left > 0;
    std::int64_t count =
        is_chunk ? std::min(request.prompt_left, random_.between(1, shape_.longest_chunk)) : 1;
    if (!is_chunk && random_.one_in(5)) count = random_.between(0, kMostSpeculative);
    // A request without pages gives way to the others.
    if (!grow(request, count)) {
      finish(i);
      continue;
    }
    request.prompt_left -= is_chunk ? count : 0;
    (is_chunk ? has_chunk : has_decode) |= count > 0;
    ++i;
  }
  events_.mixed_steps += has_chunk && has_decode;
}

ServerWalk::Rounded ServerWalk::rows_of_step(Row row) const {
  std::int64_t tokens = row == Row::query ? kIdleRows : 0;
  for (const Request& request : requests_) tokens += request.new_tokens;
  const std::int64_t heads = row == Row::query ? shape_.q_heads : shape_.kv_heads, dim = dim_of(row);
  Rounded rows({1, heads, tokens, dim}, shape_.heads_last ? Layout::bshd : Layout::padded, shape_.type);
  std::int64_t at = 0;
  for (const Request& request : requests_) {
    for (std::int64_t i = request.kept(); i < std::ssize(request.tokens); ++i, ++at) {
      const std::vector<float> all = row_of(request.tokens[sz(i)], row);
      for (std::int64_t h = 0; h < heads; ++h)
        for (std::int64_t d = 0; d < dim; ++d) rows.wide.at(0, h, at, d) = all[sz(h * dim + d)];
    }
  }
  rows.store();
  return rows;
}

void ServerWalk::append(const Context& context) {
  const Rounded keys = rows_of_step(Row::key), values = rows_of_step(Row::value);
  std::vector<std::int64_t> slots;
  for (const Request& request : requests_)
    for (std::int64_t i = request.kept(); i < std::ssize(request.tokens); ++i)
      slots.push_back(request.pages[sz(i / shape_.page_keys)] * shape_.page_keys + i % shape_.page_keys);
  KvAppendArgs args;
  args.key = keys.input(), args.value = values.input();
  args.key_cache = cache(Row::key), args.value_cache = cache(Row::value);
  args.slot_mapping = slots.data();
  if (shape_.key_tiles) args.key_layout = KeyLayout::tiles_of_16;
  const Status status = kv_append(context, args);
  ASSERT_TRUE(status.ok()) << status.message();
  expect_pages_hold_the_model();
}

void ServerWalk::expect_pages_hold_the_model() const {
  for (const Request& request : requests_) {
    for (std::int64_t i = 0; i < std::ssize(request.tokens); ++i) {
      for (const Row row : {Row::key, Row::value}) {
        const std::vector<float> want = row_of(request.tokens[sz(i)], row);
        const std::byte* const data = (row == Row::key ? key_cache_ : value_cache_).data();
        for (std::int64_t at = 0; at < std::ssize(want); ++at) {
          const std::int64_t page = request.pages[sz(i / shape_.page_keys)], dim = dim_of(row);
          const float got = kernels::load_element(
              element_of(shape_.type), data + place(row, page, at / dim, i % shape_.page_keys, at % dim), 0);
          ASSERT_EQ(got, rounded(shape_.type, want[sz(at)])) << "token " << i << " in page " << page;
        }
      }
    }
  }
}

AttentionArgs ServerWalk::step_args() {
  query_ = std::make_unique<Rounded>(rows_of_step(Row::query));
  cu_seqlens_q_ = {0}, lengths_.clear(), table_.clear();
  indptr_ = {static_cast<std::int32_t>(random_.between(0, 3))};
  const std::int64_t max_pages = shape_.pages, stride = max_pages + 1;
  if (shape_.page_lists) table_.resize(sz(indptr_[0]), -1);
  for (const Request& request : requests_) {
    cu_seqlens_q_.push_back(cu_seqlens_q_.back() + static_cast<std::int32_t>(request.new_tokens));
    lengths_.push_back(static_cast<std::int32_t>(request.tokens.size()));
    table_.insert(table_.end(), request.pages.begin(), request.pages.end());
    // Entries that no key needs are not pages.
    if (!shape_.page_lists)
      table_.resize(table_.size() + sz(stride) - request.pages.size(), random_.pick({-1, 2147483647}));
    indptr_.push_back(static_cast<std::int32_t>(table_.size()));
  }
  const std::int64_t positions = cu_seqlens_q_.back() + kIdleRows;
  out_ = GuardedTensor({1, shape_.q_heads, positions, shape_.v_head_dim}, Layout::padded, Flush::back);
  lse_ = GuardedLse(1, shape_.q_heads, positions, GuardedLse::Layout::padded, Flush::back);
  AttentionArgs args;
  args.precision = Precision::standard;
  args.q = query_->input(), args.out = out_.output(), args.lse = lse_.view();
  const Tensor keys = cache(Row::key), values = cache(Row::value);
  args.k = {keys.data, keys.shape, keys.stride, keys.dtype};
  args.v = {values.data, values.shape, values.stride, values.dtype};
  if (shape_.key_tiles) args.key_layout = KeyLayout::tiles_of_16;
  args.is_causal = true, args.window_left = shape_.window_left;
  if (shape_.sinks) args.sinks = sinks_.data();
  args.cu_seqlens_q = cu_seqlens_q_.data();
  args.num_sequences = std::ssize(requests_), args.max_pages = max_pages;
  args.block_table = table_.data(), args.seqused_k = lengths_.data();
  if (shape_.page_lists)
    args.kv_indptr = indptr_.data();
  else
    args.block_table_stride = stride;
  return args;
}

void ServerWalk::attend(const Context& context) {
  const AttentionArgs args = step_args();
  if (plan_ && planned_queries_ == cu_seqlens_q_) {
    const Status updated = plan_.update(lengths_, table_.data(), args.kv_indptr);
    ASSERT_TRUE(updated.ok()) << updated.message();
    ++events_.updates;
  } else {
    plan_ = {}, planned_queries_.clear();
  }
  if (!plan_ && random_.one_in(4)) {
    const Status ran = attention_forward(context, args);
    ASSERT_TRUE(ran.ok()) << ran.message();
  } else {
    if (!plan_) {
      const Status planned = plan(context, args, &plan_);
      ASSERT_TRUE(planned.ok()) << planned.message();
    }
    planned_queries_ = cu_seqlens_q_;
    events_.shared_groups += plan_.explain().find("shared prefixes") != std::string::npos;
    const Status ran = plan_.run(args);
    ASSERT_TRUE(ran.ok()) << ran.message();
  }
  ASSERT_TRUE(out_.gaps_untouched());
  ASSERT_TRUE(lse_.gaps_untouched());
  for (std::int64_t h = 0; h < shape_.q_heads; ++h)
    for (std::int64_t i = cu_seqlens_q_.back(); i < out_.shape()[2]; ++i)
      ASSERT_TRUE(is_poison(out_.at(0, h, i, 0))) << "a row of nobody was written";
  for (std::size_t i = 0; i < requests_.size(); ++i)
    ASSERT_NO_FATAL_FAILURE(check_request(context, args, i)) << "request " << i;
}

void ServerWalk::check_request(const Context& context, const AttentionArgs& step, std::size_t index) const {
  const Request& request = requests_[index];
  const std::int64_t first = cu_seqlens_q_[index], rows = request.new_tokens, keys = lengths_[index];
  if (rows == 0) return;
  const auto dense = [&](Row row, std::int64_t heads, std::int64_t from, std::int64_t count) {
    Rounded tensor({1, heads, count, dim_of(row)}, Layout::bhsd, shape_.type);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::vector<float> all = row_of(request.tokens[sz(from + i)], row);
      for (std::int64_t at = 0; at < std::ssize(all); ++at)
        tensor.wide.at(0, at / dim_of(row), i, at % dim_of(row)) = all[sz(at)];
    }
    tensor.store();
    return tensor;
  };
  const Rounded q = dense(Row::query, shape_.q_heads, request.kept(), rows),
                k = dense(Row::key, shape_.kv_heads, 0, keys),
                v = dense(Row::value, shape_.kv_heads, 0, keys);
  const GuardedTensor out({1, shape_.q_heads, rows, shape_.v_head_dim}, Layout::bhsd, Flush::back);
  const GuardedLse lse(1, shape_.q_heads, rows, GuardedLse::Layout::contiguous, Flush::back);
  AttentionArgs alone;
  alone.precision = Precision::standard;
  alone.q = q.input(), alone.k = k.input(), alone.v = v.input();
  alone.out = out.output(), alone.lse = lse.view();
  alone.is_causal = true, alone.window_left = step.window_left, alone.sinks = step.sinks;
  const Status status = attention_forward(context, alone);
  ASSERT_TRUE(status.ok()) << status.message();
  Outcome got;
  const std::vector<float> all_lse = lse_.elements();
  for (std::int64_t h = 0; h < shape_.q_heads; ++h) {
    for (std::int64_t i = first; i < first + rows; ++i) {
      got.lse.push_back(all_lse[sz(h * out_.shape()[2] + i)]);
      for (std::int64_t d = 0; d < shape_.v_head_dim; ++d) got.out.push_back(out_.at(0, h, i, d));
    }
  }
  ASSERT_TRUE(same_bits(got, {out.elements(), lse.elements()}));
  alone.q = q.wide.input(), alone.k = k.wide.input(), alone.v = v.wide.input();
  ASSERT_TRUE(meets_error_promise(got.out, got.lse, attention_fp64(alone), attention_naive_f32(alone)));
}

}  // namespace kumiko::test
