#include "tests/runtime/case.h"

#include <algorithm>

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

::testing::AssertionResult same_bits(const Outcome& got, const Outcome& want) {
  if (auto same = same_bits(got.out, want.out); !same)
    return ::testing::AssertionFailure() << "out: " << same.message();
  if (auto same = same_bits(got.lse, want.lse); !same)
    return ::testing::AssertionFailure() << "lse: " << same.message();
  return ::testing::AssertionSuccess();
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

Problem::Problem(const Case& c) : seqused_(c.seqused) {
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
  args_.seqused_k = seqused_.empty() ? nullptr : seqused_.data();
}

AttentionArgs Problem::args(Pipeline pipeline) const {
  AttentionArgs args = args_;
  args.pipeline = pipeline;
  return args;
}

void Problem::poison_outputs() const {
  out.poison_all();
  lse.poison_all();
}

::testing::AssertionResult Problem::borders_intact() const {
  if (auto ok = out.gaps_untouched(); !ok) return ::testing::AssertionFailure() << "out: " << ok.message();
  if (auto ok = lse.gaps_untouched(); !ok) return ::testing::AssertionFailure() << "lse: " << ok.message();
  return ::testing::AssertionSuccess();
}

::testing::AssertionResult Problem::outputs_untouched() const {
  if (auto ok = out.all_untouched(); !ok) return ::testing::AssertionFailure() << "out: " << ok.message();
  if (auto ok = lse.all_untouched(); !ok) return ::testing::AssertionFailure() << "lse: " << ok.message();
  return ::testing::AssertionSuccess();
}

Outcome Problem::run(const Context& context, Pipeline pipeline) const {
  poison_outputs();
  const Status status = attention_forward(context, args(pipeline));
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(borders_intact());
  return outcome();
}

}  // namespace kumiko::test
