// SPDX-License-Identifier: Apache-2.0
#include "tests/runtime/case.h"

#include <algorithm>

#include "kernels/element.h"
#include "tests/support/bits.h"
#include "tests/support/random.h"

namespace kumiko::test {

std::ostream& operator<<(std::ostream& os, const Case& c) {
  os << "batch " << c.batch << " heads " << c.q_heads << "/" << c.kv_heads << " q_len " << c.q_len
     << " kv_len " << c.kv_len << " dims " << c.head_dim << "/" << c.v_head_dim << " layouts "
     << to_string(c.q_layout) << "," << to_string(c.k_layout) << "," << to_string(c.v_layout) << "->"
     << to_string(c.out_layout) << " lse " << to_string(c.lse);
  if (c.is_causal) os << " causal";
  os << (c.alignment == CausalAlignment::top_left ? " top_left" : " bottom_right");
  if (c.window_left >= 0 || c.window_right >= 0) os << " window " << c.window_left << "," << c.window_right;
  if (c.scale != 0.0f) os << " scale " << c.scale;
  if (!c.seqused.empty()) {
    os << " seqused";
    for (const std::int32_t n : c.seqused) os << ' ' << n;
  }
  if (c.softcap != 0.0f) os << " softcap " << c.softcap;
  if (c.bias != TermLayout::none)
    os << " bias layout " << static_cast<int>(c.bias) << " type " << static_cast<int>(c.bias_type);
  if (c.mask != TermLayout::none)
    os << " mask layout " << static_cast<int>(c.mask) << " blocks of " << c.mask_block;
  if (c.alibi != 0) os << " alibi " << c.alibi;
  if (c.window_sink_tokens > 0) os << " first tokens " << c.window_sink_tokens;
  if (!c.causal_sequences.empty()) {
    os << " causal sequences";
    for (const std::uint8_t flag : c.causal_sequences) os << ' ' << int{flag};
  }
  if (!c.prefix_lens.empty()) {
    os << " prefixes";
    for (const std::int32_t n : c.prefix_lens) os << ' ' << n;
  }
  os << c.lists;
  if (c.sinks) os << " sinks" << (c.lse_with_sink ? "" : " outside lse");
  if (c.lse_base == LseBase::two) os << " lse in base 2";
  if (c.q_magnitude != 1.0f || c.k_magnitude != 1.0f || c.v_magnitude != 1.0f)
    os << " magnitudes " << c.q_magnitude << "," << c.k_magnitude << "," << c.v_magnitude;
  return os << " seed " << c.seed;
}

Case masked(Case c, int kind) {
  Random random(c.seed ^ 0x5DEECE66Du);
  const auto lengths = [&] {
    for (std::int64_t b = 0; b < c.batch; ++b)
      c.seqused.push_back(static_cast<std::int32_t>(random.between(0, c.kv_len)));
  };
  const auto window = [&] { return random.pick<std::int64_t>({0, 1, 7, 31, 64, 300, c.kv_len}); };
  switch (kind) {
    case 1:
      c.is_causal = true;
      break;
    case 2:
      c.is_causal = true, c.alignment = CausalAlignment::top_left;
      break;
    case 3:
      c.window_left = window();
      break;
    case 4:
      c.window_right = window(), c.alignment = CausalAlignment::top_left;
      break;
    case 5:
      c.window_left = window(), c.window_right = window();
      break;
    case 6:
      c.is_causal = true, c.window_left = window();
      break;
    case 7:
      c.is_causal = true, c.window_left = window(), c.window_right = window(),
      c.alignment = CausalAlignment::top_left;
      break;
    case 8:
      lengths();
      break;
    case 9:
      lengths(), c.is_causal = true;
      break;
    case 10:
      lengths(), c.is_causal = true, c.alignment = CausalAlignment::top_left;
      break;
    case 11:
      lengths(), c.window_left = window(), c.window_right = window();
      break;
    default:
      break;
  }
  return c;
}

Case draw_small_case(Random& random) {
  Case c;
  c.batch = random.between(1, 3);
  c.kv_heads = random.between(1, 2), c.q_heads = c.kv_heads * random.between(1, 4);
  c.q_len = random.pick({std::int64_t{1}, random.between(1, 20), random.between(1, 130)});
  c.kv_len = random.pick({random.between(0, 90), random.between(200, 1400)});
  c.head_dim = random.between(1, 40), c.v_head_dim = random.between(1, 40);
  c = masked(c, static_cast<int>(random.between(0, kMaskKinds - 1)));
  c.seed = random.bits();
  return c;
}

void draw_sequence_visibility(Random& random, Case* c) {
  if (random.one_in(2))
    c->window_sink_tokens = random.pick<std::int64_t>({1, 3, 4, 17, 64, 255, 256, 300, 513, 1000});
  const bool causality = random.one_in(2), prefixes = random.one_in(2);
  for (std::int64_t b = 0; b < c->batch; ++b) {
    if (causality) c->causal_sequences.push_back(random.one_in(2) ? 1 : 0);
    if (prefixes) {
      c->prefix_lens.push_back(static_cast<std::int32_t>(
          random.pick({std::int64_t{0}, random.between(0, 40), random.between(0, c->kv_len + 9)})));
    }
  }
}

::testing::AssertionResult same_bits(const Outcome& got, const Outcome& want) {
  if (auto same = same_bits(got.out, want.out); !same)
    return ::testing::AssertionFailure() << "out: " << same.message();
  if (auto same = same_bits(got.lse, want.lse); !same)
    return ::testing::AssertionFailure() << "lse: " << same.message();
  if (auto same = same_bits(got.row_max, want.row_max); !same)
    return ::testing::AssertionFailure() << "row_max: " << same.message();
  return ::testing::AssertionSuccess();
}

::testing::AssertionResult gives_rows(const Context& context, AttentionArgs part, const Outcome& whole,
                                      std::int64_t first, std::int64_t last) {
  const std::int64_t heads = part.out.shape[1], rows = part.out.shape[2], dim = part.out.shape[3];
  const GuardedTensor out({1, heads, last - first, dim}, Layout::bhsd, Flush::back);
  const auto wanted = whole.lse.empty() ? GuardedLse::Layout::none : GuardedLse::Layout::contiguous;
  const GuardedLse lse(1, heads, last - first, wanted, Flush::back);
  part.out = out.output(), part.lse = lse.view(), part.row_max = {};
  if (const Status status = attention_forward(context, part); !status.ok())
    return ::testing::AssertionFailure() << status.message();
  const auto rows_of = [&](const std::vector<float>& all, std::int64_t width) {
    std::vector<float> some;
    for (std::int64_t h = 0; h < heads && !all.empty(); ++h)
      some.insert(some.end(), all.begin() + (h * rows + first) * width,
                  all.begin() + (h * rows + last) * width);
    return some;
  };
  return same_bits({out.elements(), lse.elements()}, {rows_of(whole.out, dim), rows_of(whole.lse, 1)});
}

namespace {

bool shares_positions(Layout layout) {
  return layout == Layout::expanded_batch || layout == Layout::expanded_seq;
}

void poison_past(const GuardedTensor& t, Layout layout, const std::vector<std::int32_t>& seqused) {
  if (seqused.empty() || shares_positions(layout)) return;
  const auto [batch, heads, seq, dim] = t.shape();
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t h = 0; h < heads; ++h)
      for (std::int64_t s = seqused[static_cast<std::size_t>(b)]; s < seq; ++s)
        for (std::int64_t d = 0; d < dim; ++d) t.at(b, h, s, d) = poison();
}

}  // namespace

Problem::Problem(const Case& c)
    : seqused_(c.seqused), prefix_lens_(c.prefix_lens), causal_sequences_(c.causal_sequences) {
  Random random(c.seed);
  const auto flush = [&] { return random.one_in(2) ? Flush::front : Flush::back; };
  q = GuardedTensor({c.batch, c.q_heads, c.q_len, c.head_dim}, c.q_layout, flush());
  k = GuardedTensor({c.batch, c.kv_heads, c.kv_len, c.head_dim}, c.k_layout, flush());
  v = GuardedTensor({c.batch, c.kv_heads, c.kv_len, c.v_head_dim}, c.v_layout, flush());
  out = GuardedTensor({c.batch, c.q_heads, c.q_len, c.v_head_dim}, c.out_layout, flush());
  lse = GuardedLse(c.batch, c.q_heads, c.q_len, c.lse, flush());
  q.fill_normal(random, c.q_magnitude);
  k.fill_normal(random, c.k_magnitude);
  v.fill_normal(random, c.v_magnitude);
  poison_past(k, c.k_layout, c.seqused);
  poison_past(v, c.v_layout, c.seqused);

  args_.q = q.input();
  args_.k = k.input();
  args_.v = v.input();
  args_.out = out.output();
  args_.lse = lse.view();
  args_.scale = c.scale;
  args_.is_causal = c.is_causal;
  args_.causal_alignment = c.alignment;
  args_.window_left = c.window_left;
  args_.window_right = c.window_right;
  args_.window_sink_tokens = c.window_sink_tokens;
  args_.seqused_k = seqused_.empty() ? nullptr : seqused_.data();
  args_.softcap = c.softcap;
  const Shape scores{c.batch, c.q_heads, c.q_len, c.kv_len};
  if (c.bias != TermLayout::none) {
    bias = TermTensor(scores, c.bias, c.bias_type, flush());
    bias.fill([&](auto...) { return 2 * random.normal(); });
    args_.bias = bias.view();
  }
  if (c.mask != TermLayout::none) {
    mask = TermTensor(scores, c.mask, DataType::boolean, flush());
    const std::uint64_t salt = random.bits();
    mask.fill([&](std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) {
      // One draw for a whole square; true is any byte other than 0.
      Random square(salt ^ static_cast<std::uint64_t>(((b * 31 + h) * 1009 + i / c.mask_block) * 100'003 +
                                                      j / c.mask_block + 1));
      return square.one_in(2) ? static_cast<float>(square.between(1, 255)) : 0.0f;
    });
    args_.mask = mask.view();
  }
  if (c.alibi != 0) {
    for (std::int64_t n = 0; n < c.q_heads * (c.alibi == 2 ? c.batch : 1); ++n)
      slopes_.push_back(0.02f * static_cast<float>(random.between(-2, 10)));
    args_.alibi_slopes = slopes_.data();
    args_.alibi_batch_stride = c.alibi == 2 ? c.q_heads : 0;
  }
  if (c.sinks) {
    for (std::int64_t h = 0; h < c.q_heads; ++h)
      sinks_.push_back(random.pick({0.0f, 3.0f * random.normal(), 9.0f, -9.0f}));
    args_.sinks = sinks_.data();
  }
  args_.lse_with_sink = c.lse_with_sink;
  args_.lse_base = c.lse_base;
  args_.causal_sequences = causal_sequences_.empty() ? nullptr : causal_sequences_.data();
  args_.prefix_lens = prefix_lens_.empty() ? nullptr : prefix_lens_.data();
  const auto of_each = [&](std::int64_t n) { return std::vector(static_cast<std::size_t>(c.batch), n); };
  lists_ = KeyListData(c.lists, c.q_heads, of_each(c.q_len), of_each(c.kv_len), random);
  lists_.set(&args_);
  row_max = GuardedLse(c.batch, c.q_heads, c.q_len, c.row_max, flush());
  args_.row_max = row_max.view();
}

TermTensor::TermTensor(const Shape& shape, TermLayout layout, DataType type, Flush flush)
    : shape_(shape), type_(type) {
  const auto [b, h, i, j] = shape;
  switch (layout) {
    case TermLayout::full:
    case TermLayout::none:
      stride_ = {h * i * j, i * j, j, 1};
      break;
    case TermLayout::padded:
      stride_ = {h * (i * (j + 3) + 7) + 11, i * (j + 3) + 7, j + 3, 1};
      break;
    case TermLayout::heads:
      stride_ = {0, i * j, j, 1};
      break;
    case TermLayout::positions:
      stride_ = {0, 0, j, 1};
      break;
    case TermLayout::keys:
      stride_ = {j, 0, 0, 1};
      break;
    case TermLayout::queries:
      stride_ = {h * i, i, 1, 0};
      break;
    case TermLayout::transposed:
      stride_ = {h * i * j, i * j, 1, i};
      break;
    case TermLayout::one:
      break;
  }
  std::int64_t last = 0;
  bool empty = false;
  for (int d = 0; d < 4; ++d) {
    last += (shape[d] - 1) * stride_[d];
    empty = empty || shape[d] == 0;
  }
  const std::size_t bytes = type == DataType::f32 ? 4 : type == DataType::boolean ? 1 : 2;
  buffer_ = GuardedBuffer(empty ? 0 : static_cast<std::size_t>(last + 1) * bytes, flush);
  std::fill_n(reinterpret_cast<unsigned char*>(buffer_.data()), buffer_.size(),
              static_cast<unsigned char>(type == DataType::boolean ? 0xC5 : 0xFF));
}

void TermTensor::set(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j, float value) const {
  const std::int64_t at = b * stride_[0] + h * stride_[1] + i * stride_[2] + j * stride_[3];
  auto* bytes = reinterpret_cast<unsigned char*>(buffer_.data());
  switch (type_) {
    case DataType::f32:
      reinterpret_cast<float*>(bytes)[at] = value;
      break;
    case DataType::bf16:
      kernels::from_float(value, reinterpret_cast<kernels::Bf16*>(bytes) + at);
      break;
    case DataType::f16:
      kernels::from_float(value, reinterpret_cast<kernels::F16*>(bytes) + at);
      break;
    case DataType::boolean:
      bytes[at] = static_cast<unsigned char>(value);
      break;
    case DataType::i32:  // no bias or mask has these types
    case DataType::i8:
      break;
  }
}

AttentionArgs Problem::args(Pipeline pipeline) const {
  AttentionArgs args = args_;
  args.pipeline = pipeline;
  return args;
}

void Problem::poison_outputs() const {
  out.poison_all();
  lse.poison_all();
  row_max.poison_all();
}

::testing::AssertionResult Problem::borders_intact() const {
  if (auto ok = out.gaps_untouched(); !ok) return ::testing::AssertionFailure() << "out: " << ok.message();
  if (auto ok = lse.gaps_untouched(); !ok) return ::testing::AssertionFailure() << "lse: " << ok.message();
  if (auto ok = row_max.gaps_untouched(); !ok)
    return ::testing::AssertionFailure() << "row_max: " << ok.message();
  return ::testing::AssertionSuccess();
}

::testing::AssertionResult Problem::outputs_untouched() const {
  if (auto ok = out.all_untouched(); !ok) return ::testing::AssertionFailure() << "out: " << ok.message();
  if (auto ok = lse.all_untouched(); !ok) return ::testing::AssertionFailure() << "lse: " << ok.message();
  if (auto ok = row_max.all_untouched(); !ok)
    return ::testing::AssertionFailure() << "row_max: " << ok.message();
  return ::testing::AssertionSuccess();
}

Outcome Problem::run(const Context& context, Pipeline pipeline) const {
  return run(context, args(pipeline));
}

Outcome Problem::run(const Context& context, const AttentionArgs& changed) const {
  poison_outputs();
  const Status status = attention_forward(context, changed);
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(borders_intact());
  return outcome();
}

ConstTensor values_in_keys(const ConstTensor& k, std::int64_t first, std::int64_t dim) {
  ConstTensor v = k;
  v.data = static_cast<const std::byte*>(k.data) + first * (k.dtype == DataType::f32 ? 4 : 2);
  v.shape[3] = dim;
  return v;
}

void copy_values_of_keys(const GuardedTensor& k, std::int64_t first, const GuardedTensor& v) {
  const auto [batch, heads, seq, dim] = v.shape();
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t h = 0; h < heads; ++h)
      for (std::int64_t s = 0; s < seq; ++s)
        for (std::int64_t d = 0; d < dim; ++d) v.at(b, h, s, d) = k.at(b, h, s, first + d);
}

}  // namespace kumiko::test
