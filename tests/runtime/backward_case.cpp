// SPDX-License-Identifier: Apache-2.0
#include "tests/runtime/backward_case.h"

#include <cmath>

#include "tests/support/bits.h"

namespace kumiko::test {

std::ostream& operator<<(std::ostream& os, const BackwardCase& c) {
  return os << c.forward << " gradients " << to_string(c.dout) << "->" << to_string(c.dq) << ","
            << to_string(c.dk) << "," << to_string(c.dv) << " dlse " << to_string(c.dlse);
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

Gradients BackwardProblem::run(const Context& context) const {
  for (const GuardedTensor* gradient : {&dq, &dk, &dv}) gradient->poison_all();
  for (float& x : dsinks_) x = poison();
  const Status status = attention_backward(context, args_);
  EXPECT_TRUE(status.ok()) << status.message();
  for (const GuardedTensor* gradient : {&dq, &dk, &dv}) EXPECT_TRUE(gradient->gaps_untouched());
  return {dq.elements(), dk.elements(), dv.elements(), dsinks_};
}

::testing::AssertionResult BackwardProblem::outputs_untouched() const {
  for (const GuardedTensor* gradient : {&dq, &dk, &dv}) {
    if (auto ok = gradient->all_untouched(); !ok) return ok;
  }
  return ::testing::AssertionSuccess();
}

GradientAnswer BackwardProblem::answer() const {
  const std::vector<float> of_out = dout.elements(),
                           of_lse = args_.dlse.data ? dlse.elements() : std::vector<float>();
  return {gradients_fp64(args_.forward, of_out, of_lse), gradients_naive_f32(args_.forward, of_out, of_lse)};
}

::testing::AssertionResult GradientAnswer::is_met_by(const Gradients& got) const {
  if (auto ok = gradient_is_right(got.dq, fp64.dq, naive.dq, fp64.q_facts); !ok)
    return ::testing::AssertionFailure() << "dq: " << ok.message();
  if (auto ok = gradient_is_right(got.dk, fp64.dk, naive.dk, fp64.k_facts); !ok)
    return ::testing::AssertionFailure() << "dk: " << ok.message();
  if (auto ok = gradient_is_right(got.dv, fp64.dv, naive.dv, fp64.v_facts); !ok)
    return ::testing::AssertionFailure() << "dv: " << ok.message();
  double size = 1;  // of the sum that a sink's gradient is
  for (const double d : fp64.dsinks) size = std::max(size, std::abs(d));
  for (std::size_t h = 0; h < got.dsinks.size(); ++h) {
    if (!(std::abs(got.dsinks[h] - fp64.dsinks[h]) <= 1e-4 * size))
      return ::testing::AssertionFailure()
             << "dsinks[" << h << "] is " << got.dsinks[h] << ", fp64 " << fp64.dsinks[h];
  }
  return ::testing::AssertionSuccess();
}

}  // namespace kumiko::test
