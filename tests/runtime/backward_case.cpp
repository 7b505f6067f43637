// SPDX-License-Identifier: Apache-2.0
#include "tests/runtime/backward_case.h"

#include <cmath>

#include "tests/support/bits.h"

namespace kumiko::test {

std::ostream& operator<<(std::ostream& os, const BackwardCase& c) {
  return os << c.forward << " gradients " << to_string(c.dout) << "->" << to_string(c.dq) << ","
            << to_string(c.dk) << "," << to_string(c.dv) << " dlse " << to_string(c.dlse);
}

BackwardCase draw_backward_case(Random& random) {
  BackwardCase c;
  Case& f = c.forward;
  f.batch = random.between(1, 2);
  f.kv_heads = random.between(1, 2), f.q_heads = f.kv_heads * random.pick<std::int64_t>({1, 1, 2, 3});
  const auto length = [&] {
    return random.pick({random.between(1, 20), random.between(1, 210), random.between(150, 260)});
  };
  f.q_len = length(), f.kv_len = random.one_in(20) ? 0 : length();
  if (random.one_in(12) && kThinning == 0) {  // more than one block
    f.batch = f.kv_heads = 1, f.q_heads = random.between(1, 2);
    f.q_len = random.between(1, 700), f.kv_len = random.between(500, 1300);
  }
  const auto dim = [&] {
    return random.pick({random.between(1, 16), random.between(1, 70), std::int64_t{64}});
  };
  f.head_dim = dim(), f.v_head_dim = dim();
  if (random.one_in(8)) {  // any that there is
    f.head_dim = random.between(1, 576), f.v_head_dim = random.between(1, 576);
    f.q_len = std::min<std::int64_t>(f.q_len, 70), f.kv_len = std::min<std::int64_t>(f.kv_len, 70);
  }
  f.seed = random.bits();
  f = masked(f, static_cast<int>(random.between(0, kMaskKinds - 1)));
  if (random.one_in(4)) f.softcap = random.pick({2.0f, 20.0f});
  if (random.one_in(3)) {
    f.bias = random.pick({TermLayout::full, TermLayout::padded, TermLayout::heads, TermLayout::keys,
                          TermLayout::queries, TermLayout::transposed});
    f.bias_type = random.pick({DataType::f32, DataType::bf16, DataType::f16});
  }
  if (random.one_in(3)) {
    f.mask =
        random.pick({TermLayout::full, TermLayout::padded, TermLayout::positions, TermLayout::transposed});
    f.mask_block = random.pick<std::int64_t>({1, 7, 64});
  }
  f.alibi = random.one_in(4) ? static_cast<int>(random.between(1, 2)) : 0;
  f.sinks = random.one_in(4), f.lse_with_sink = random.one_in(2);
  if (random.one_in(3)) f.lse_base = LseBase::two;
  if (random.one_in(3)) f.scale = random.pick({0.3f, -0.2f});
  if (random.one_in(5)) draw_sequence_visibility(random, &f), f.window_sink_tokens = 0;
  const auto layout = [&] {
    return random.pick({Layout::bhsd, Layout::bshd, Layout::sbhd, Layout::padded, Layout::padded_bshd});
  };
  f.q_layout = layout(), f.k_layout = layout(), f.v_layout = layout(), f.out_layout = layout();
  if (random.one_in(8)) f.k_layout = Layout::expanded_heads;
  f.lse = random.pick({GuardedLse::Layout::contiguous, GuardedLse::Layout::bsh, GuardedLse::Layout::padded});
  c.dout = layout(), c.dq = layout(), c.dk = layout(), c.dv = layout();
  if (random.one_in(8)) c.dout = Layout::expanded_seq;
  if (random.one_in(3))
    c.dlse = random.pick(
        {GuardedLse::Layout::contiguous, GuardedLse::Layout::defaulted, GuardedLse::Layout::padded});
  return c;
}

BackwardCase grouped_case(std::int64_t q_len, std::int64_t kv_len, std::int64_t head_dim,
                          std::int64_t v_head_dim) {
  BackwardCase c;
  Case& f = c.forward;
  f.batch = 2, f.q_heads = 4, f.kv_heads = 2, f.q_len = q_len, f.kv_len = kv_len;
  f.head_dim = head_dim, f.v_head_dim = v_head_dim;
  return c;
}

::testing::AssertionResult same_bits(const Gradients& got, const Gradients& want) {
  const struct {
    const char* name;
    const std::vector<float>&got, &want;
  } all[] = {{"dq", got.dq, want.dq},
             {"dk", got.dk, want.dk},
             {"dv", got.dv, want.dv},
             {"dsinks", got.dsinks, want.dsinks}};
  for (const auto& one : all) {
    if (auto same = same_bits(one.got, one.want); !same)
      return ::testing::AssertionFailure() << one.name << ": " << same.message();
  }
  return ::testing::AssertionSuccess();
}

BackwardProblem::BackwardProblem(const BackwardCase& c, const Context& context) : forward(c.forward) {
  Random random(c.forward.seed ^ 0xBAC4u);
  const auto flush = [&] { return random.one_in(2) ? Flush::front : Flush::back; };
  dout = GuardedTensor(forward.out.shape(), c.dout, flush());
  dq = GuardedTensor(forward.q.shape(), c.dq, flush());
  dk = GuardedTensor(forward.k.shape(), c.dk, flush());
  dv = GuardedTensor(forward.v.shape(), c.dv, flush());
  dlse = GuardedLse(c.forward.batch, c.forward.q_heads, c.forward.q_len, c.dlse, flush());
  dout.fill_normal(random);
  if (LseView view = dlse.view(); view.data) {
    const auto stride =
        view.stride == std::array<std::int64_t, 3>{}
            ? std::array<std::int64_t, 3>{c.forward.q_heads * c.forward.q_len, c.forward.q_len, 1}
            : view.stride;
    for (std::int64_t b = 0; b < c.forward.batch; ++b)
      for (std::int64_t h = 0; h < c.forward.q_heads; ++h)
        for (std::int64_t i = 0; i < c.forward.q_len; ++i)
          view.data[b * stride[0] + h * stride[1] + i * stride[2]] = random.normal();
  }
  forward.run(context);
  args_.forward = forward.args();
  args_.dout = dout.input();
  args_.dlse = dlse.view();
  args_.dq = dq.output(), args_.dk = dk.output(), args_.dv = dv.output();
  if (c.forward.sinks) {
    dsinks_.resize(static_cast<std::size_t>(c.forward.q_heads));
    args_.dsinks = dsinks_.data();
  }
}

Gradients BackwardProblem::run(const Context& context, const BackwardArgs& args) const {
  poison_gradients();
  for (float& x : dsinks_) x = poison();
  const Status status = attention_backward(context, args);
  EXPECT_TRUE(status.ok()) << status.message();
  for (const GuardedTensor* gradient : {&dq, &dk, &dv}) EXPECT_TRUE(gradient->gaps_untouched());
  return {dq.elements(), dk.elements(), dv.elements(), dsinks_};
}

void BackwardProblem::poison_gradients() const {
  for (const GuardedTensor* gradient : {&dq, &dk, &dv}) gradient->poison_all();
}

::testing::AssertionResult BackwardProblem::outputs_untouched() const {
  for (const GuardedTensor* gradient : {&dq, &dk, &dv}) {
    if (auto ok = gradient->all_untouched(); !ok) return ok;
  }
  return ::testing::AssertionSuccess();
}

std::string BackwardProblem::put(float value, int n, Random& random) const {
  const GuardedTensor* const tensors[] = {&forward.q, &forward.k, &forward.v, &dout};
  const GuardedTensor& tensor = *tensors[n % 4];
  std::int64_t at[4];
  std::string where = "tensor " + std::to_string(n % 4);
  for (std::size_t i = 0; i < 4; ++i) {
    at[i] = random.between(0, tensor.shape()[i] - 1);
    where += " " + std::to_string(at[i]);
  }
  tensor.at(at[0], at[1], at[2], at[3]) = value;
  return where;
}

GradientAnswer BackwardProblem::answer(Rounded what) const {
  const std::vector<float> of_out = dout.elements(),
                           of_lse = args_.dlse.data ? dlse.elements() : std::vector<float>();
  return {gradients_fp64(args_.forward, of_out, of_lse),
          gradients_naive_f32(args_.forward, of_out, of_lse, what), what};
}

::testing::AssertionResult GradientAnswer::is_met_by(const Gradients& got) const {
  if (auto ok = gradient_is_right(got.dq, fp64.dq, naive.dq, fp64.q_facts, nullptr, what); !ok)
    return ::testing::AssertionFailure() << "dq: " << ok.message();
  if (auto ok = gradient_is_right(got.dk, fp64.dk, naive.dk, fp64.k_facts, nullptr, what); !ok)
    return ::testing::AssertionFailure() << "dk: " << ok.message();
  if (auto ok = gradient_is_right(got.dv, fp64.dv, naive.dv, fp64.v_facts, nullptr, what); !ok)
    return ::testing::AssertionFailure() << "dv: " << ok.message();
  // Sums of f64 of what the forward call wrote, whatever this one multiplies.
  if (what == Rounded::all_weights) return ::testing::AssertionSuccess();
  double size = 1;  // of the sum that a sink's gradient is
  for (const double d : fp64.dsinks) size = std::max(size, std::abs(d));
  for (std::size_t h = 0; h < got.dsinks.size(); ++h) {
    if (!(std::abs(got.dsinks[h] - fp64.dsinks[h]) <= 1e-4 * size))
      return ::testing::AssertionFailure()
             << "dsinks[" << h << "] is " << got.dsinks[h] << ", fp64 " << fp64.dsinks[h];
  }
  return ::testing::AssertionSuccess();
}

Bf16Problem::Bf16Problem(const BackwardCase& c, const Context& context) : wide(c, context) {
  const auto narrow = [](const GuardedTensor& tensor, Flush flush) {
    tensor.round_to(DataType::bf16);
    return NarrowTensor(tensor, DataType::bf16, flush);
  };
  q = narrow(wide.forward.q, Flush::back), k = narrow(wide.forward.k, Flush::front);
  v = narrow(wide.forward.v, Flush::back), dout = narrow(wide.dout, Flush::front);
  refresh();
}

void Bf16Problem::refresh() const {
  q.copy(wide.forward.q), k.copy(wide.forward.k), v.copy(wide.forward.v), dout.copy(wide.dout);
}

BackwardArgs Bf16Problem::args(Precision precision) const {
  BackwardArgs args = wide.args();
  args.forward.q = q.input(), args.forward.k = k.input(), args.forward.v = v.input();
  args.dout = dout.input();
  args.forward.precision = precision;
  return args;
}

Gradients Bf16Problem::run(const Context& context, Precision forward, Precision precision) const {
  wide.forward.poison_outputs();
  const Status status = attention_forward(context, args(forward).forward);
  EXPECT_TRUE(status.ok()) << status.message();
  return wide.run(context, args(precision));
}

void expect_error(const Context& context, const BackwardProblem& problem, const BackwardArgs& args, Code code,
                  const std::string& message) {
  problem.poison_gradients();
  const Status status = attention_backward(context, args);
  EXPECT_EQ(status.code(), code);
  EXPECT_NE(status.message().find(message), std::string::npos) << status.message();
  EXPECT_TRUE(problem.outputs_untouched());
}

void Packing::pack(BackwardArgs* args) const {
  args->forward.cu_seqlens_q = q_begin.data(), args->forward.cu_seqlens_k = k_begin.data();
  args->forward.num_sequences = static_cast<std::int64_t>(q_begin.size()) - 1;
}

BackwardArgs Packing::alone(const BackwardArgs& args, std::size_t s) const {
  BackwardArgs one = args;
  const auto part = [s](const std::vector<std::int32_t>& begin, auto*... views) {
    const auto cut = [&](auto* view) {
      view->data = const_cast<float*>(static_cast<const float*>(view->data)) + begin[s] * view->stride[2];
      view->shape[2] = begin[s + 1] - begin[s];
    };
    (cut(views), ...);
  };
  part(q_begin, &one.forward.q, &one.forward.out, &one.dout, &one.dq);
  part(k_begin, &one.forward.k, &one.forward.v, &one.dk, &one.dv);
  const auto& q = args.forward.q.shape;
  one.forward.lse.data += q_begin[s];
  one.forward.lse.stride = {q[1] * q[2], q[2], 1};
  return one;
}

void expect_finite_where(const Gradients& got, const GradientResult<double>& want) {
  const auto same_kind = [](const std::vector<float>& x, const std::vector<double>& y, const char* name) {
    for (std::size_t i = 0; i < x.size(); ++i)
      ASSERT_EQ(std::isfinite(x[i]), std::isfinite(y[i]))
          << name << " " << i << ": " << x[i] << ", fp64 " << y[i];
  };
  ASSERT_NO_FATAL_FAILURE(same_kind(got.dq, want.dq, "dq"));
  ASSERT_NO_FATAL_FAILURE(same_kind(got.dk, want.dk, "dk"));
  ASSERT_NO_FATAL_FAILURE(same_kind(got.dv, want.dv, "dv"));
}

}  // namespace kumiko::test
