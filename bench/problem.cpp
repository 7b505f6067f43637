#include "bench/problem.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <stdexcept>

#include "bench/data_pool.h"

namespace kumiko::bench {
namespace {

constexpr int kSampledRows = 24;
// f32 with fp32 accumulation errs by about 1e-6 on these inputs (|v| < 2); a wrong key, scale or mask shows
// as 1e-2 and more. An output of at most 2 in a 16-bit type is off by half an ulp: 2^-8 and 2^-11.
double tolerance(DataType type) {
  return type == DataType::f32 ? 1e-5 : 1e-5 + (type == DataType::bf16 ? 0x1p-8 : 0x1p-11);
}

// Reads a byte of every page. A hypervisor takes away for a while the pages that it looks through or moves,
// and who comes back first waits: of 50 decode figures 7 were below six tenths of the others, and 1 after
// this and the rounds held again (rounds.h).
void touch(std::span<const std::byte> memory) {
  constexpr std::size_t kPage = 4096;
  for (std::size_t i = 0; i < memory.size(); i += kPage)
    static_cast<void>(*static_cast<const volatile std::byte*>(&memory[i]));
}

}  // namespace

Problem::Problem(const Shape& shape) : shape_(shape) {
  const std::int64_t keys = shape.batch * shape.kv_heads * shape.kv_len;
  const auto line = [](std::int64_t elements) { return static_cast<std::size_t>((elements + 31) / 32 * 32); };
  set_elements_ = line(keys * shape.head_dim) + line(keys * shape.v_head_dim);
  const std::size_t pool = data_pool(shape.type).size() / static_cast<std::size_t>(bytes_of(shape.type));
  if (set_elements_ > pool) throw std::runtime_error(shape.name + ": larger than the data pool");
  sets_ = static_cast<int>(pool / set_elements_);
  touch(data_pool(shape.type));
  const std::int64_t bytes = bytes_of(shape.type);
  const std::int64_t rows = shape.batch * shape.q_heads * shape.q_len;
  q_.resize(static_cast<std::size_t>(rows * shape.head_dim * bytes));
  Random random(0xd1b54a32d192ed03ull);
  for (std::size_t i = 0; i < q_.size(); i += static_cast<std::size_t>(bytes))
    store_rounded(shape.type, random.uniform(), q_.data() + i);
  out_.resize(static_cast<std::size_t>(rows * shape.v_head_dim * bytes));
  if (shape.mask_block > 0) {
    const std::int64_t across = (shape.kv_len + shape.mask_block - 1) / shape.mask_block;
    const std::int64_t down = (shape.q_len + shape.mask_block - 1) / shape.mask_block;
    std::vector<std::uint8_t> shown(static_cast<std::size_t>(across * down));
    for (std::uint8_t& square : shown) square = random.below(2) != 0;
    mask_.resize(static_cast<std::size_t>(shape.q_len * shape.kv_len));
    for (std::int64_t i = 0; i < shape.q_len; ++i) {
      for (std::int64_t j = 0; j < shape.kv_len; ++j) {
        mask_[static_cast<std::size_t>(i * shape.kv_len + j)] =
            shown[static_cast<std::size_t>(i / shape.mask_block * across + j / shape.mask_block)];
      }
    }
  }
}

AttentionArgs Problem::args(int set) const {
  const Shape& s = shape_;
  const std::int64_t bytes = bytes_of(s.type);
  const std::byte* k = data_pool(s.type).data() + set * static_cast<std::int64_t>(set_elements_) * bytes;
  const std::byte* v = k + (s.batch * s.kv_heads * s.kv_len * s.head_dim + 31) / 32 * 32 * bytes;
  AttentionArgs a;
  a.q = ConstTensor::bhsd(q_.data(), s.batch, s.q_heads, s.q_len, s.head_dim, s.type);
  a.k = ConstTensor::bhsd(k, s.batch, s.kv_heads, s.kv_len, s.head_dim, s.type);
  a.v = ConstTensor::bhsd(v, s.batch, s.kv_heads, s.kv_len, s.v_head_dim, s.type);
  a.out =
      Tensor::bhsd(const_cast<std::byte*>(out_.data()), s.batch, s.q_heads, s.q_len, s.v_head_dim, s.type);
  a.is_causal = s.is_causal;
  a.window_left = s.window_left;
  if (!mask_.empty()) {
    a.mask = ConstTensor::bhsd(mask_.data(), s.batch, s.q_heads, s.q_len, s.kv_len, DataType::boolean);
    a.mask.stride[0] = a.mask.stride[1] = 0;
  }
  a.seqused_k = s.seqused_k.empty() ? nullptr : s.seqused_k.data();
  return a;
}

std::int64_t Problem::used(std::int64_t batch) const {
  return shape_.seqused_k.empty() ? shape_.kv_len : shape_.seqused_k[static_cast<std::size_t>(batch)];
}

bool Problem::sees(std::int64_t batch, std::int64_t row, std::int64_t key) const {
  const std::int64_t position = row + used(batch) - shape_.q_len;
  if (key >= used(batch) || (shape_.is_causal && key > position)) return false;
  if (shape_.window_left >= 0 && key < position - shape_.window_left) return false;
  return mask_.empty() || mask_[static_cast<std::size_t>(row * shape_.kv_len + key)] != 0;
}

std::int64_t Problem::visible(std::int64_t batch, std::int64_t row) const {
  std::int64_t count = 0;
  for (std::int64_t key = 0; key < shape_.kv_len; ++key) count += sees(batch, row, key);
  return count;
}

double Problem::useful_flops() const {
  double scores = 0;
  for (std::int64_t b = 0; b < shape_.batch; ++b) {
    for (std::int64_t i = 0; i < shape_.q_len; ++i) scores += static_cast<double>(visible(b, i));
  }
  return scores * static_cast<double>(shape_.q_heads * 2 * (shape_.head_dim + shape_.v_head_dim));
}

double Problem::kv_bytes() const {
  double keys = 0;
  for (std::int64_t b = 0; b < shape_.batch; ++b) keys += static_cast<double>(used(b));
  return keys *
         static_cast<double>(shape_.kv_heads * (shape_.head_dim + shape_.v_head_dim) * bytes_of(shape_.type));
}

void Problem::poison() {
  std::fill(out_.begin(), out_.end(), std::byte{0xff});  // A NaN in every type.
}

std::vector<double> Problem::expected_row(int set, std::int64_t b, std::int64_t h, std::int64_t i) const {
  const AttentionArgs a = args(set);
  const std::int64_t dim = shape_.head_dim, v_dim = shape_.v_head_dim,
                     kv_head = h / (shape_.q_heads / shape_.kv_heads);
  const auto element = [type = shape_.type](const void* data, std::int64_t at) -> double {
    return load_widened(type, static_cast<const std::byte*>(data) + at * bytes_of(type));
  };
  const std::int64_t q_at = ((b * shape_.q_heads + h) * shape_.q_len + i) * dim,
                     key_at = (b * shape_.kv_heads + kv_head) * shape_.kv_len;
  std::vector<double> score;
  std::vector<std::int64_t> key;
  std::vector<double> row(static_cast<std::size_t>(v_dim), 0.0);
  double highest = -std::numeric_limits<double>::infinity(), sum = 0;
  for (std::int64_t j = 0; j < shape_.kv_len; ++j) {
    if (!sees(b, i, j)) continue;
    double dot = 0;
    for (std::int64_t d = 0; d < dim; ++d)
      dot += element(a.q.data, q_at + d) * element(a.k.data, (key_at + j) * dim + d);
    key.push_back(j);
    score.push_back(dot / std::sqrt(static_cast<double>(dim)));
    highest = std::max(highest, score.back());
  }
  for (std::size_t n = 0; n < score.size(); ++n) {
    const double p = std::exp(score[n] - highest);
    sum += p;
    for (std::int64_t d = 0; d < v_dim; ++d)
      row[static_cast<std::size_t>(d)] += p * element(a.v.data, (key_at + key[n]) * v_dim + d);
  }
  for (double& x : row) x = sum > 0 ? x / sum : 0;
  return row;
}

std::string Problem::check(int set) const {
  Random random(0xbf58476d1ce4e5b9ull + static_cast<std::uint64_t>(set));
  for (int sample = 0; sample < kSampledRows; ++sample) {
    // The corners first: the first row of the first head and the last of the last.
    const bool first = sample == 0, last = sample == 1;
    const std::int64_t b = first ? 0 : last ? shape_.batch - 1 : random.below(shape_.batch);
    const std::int64_t h = first ? 0 : last ? shape_.q_heads - 1 : random.below(shape_.q_heads);
    const std::int64_t i = first ? 0 : last ? shape_.q_len - 1 : random.below(shape_.q_len);
    const std::vector<double> expected = expected_row(set, b, h, i);
    const std::int64_t at = ((b * shape_.q_heads + h) * shape_.q_len + i) * shape_.v_head_dim;
    for (std::int64_t d = 0; d < shape_.v_head_dim; ++d) {
      const double want = expected[static_cast<std::size_t>(d)];
      const float actual = load_widened(shape_.type, out_.data() + (at + d) * bytes_of(shape_.type));
      if (std::abs(actual - want) <= tolerance(shape_.type)) continue;  // False for NaN.
      return "wrong answer: out[" + std::to_string(b) + ", " + std::to_string(h) + ", " + std::to_string(i) +
             ", " + std::to_string(d) + "] is " + std::to_string(actual) + ", fp64 gives " +
             std::to_string(want);
    }
  }
  return "";
}

}  // namespace kumiko::bench
