// SPDX-License-Identifier: Apache-2.0
// Causal GQA on BSHD memory through plan() and run(), each element is compared with attention by its formula.
#include <kumiko/attention.h>

#include <cmath>
#include <cstdio>
#include <vector>

int main() {
  constexpr int batch = 2, q_heads = 4, kv_heads = 2, q_len = 33, kv_len = 50, dim = 40;
  std::vector<float> q(batch * q_len * q_heads * dim), k(batch * kv_len * kv_heads * dim), v(k.size()),
      out(q.size(), NAN);
  unsigned state = 1;
  for (auto* tensor : {&q, &k, &v}) {
    for (float& x : *tensor)
      x = static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) / (1 << 23) - 1.0f;
  }

  kumiko::Context context;
  if (kumiko::Status s = kumiko::Context::create({}, &context); !s.ok())
    return std::puts(s.message().c_str()), 1;
  const kumiko::AttentionArgs args{.q = kumiko::ConstTensor::bshd(q.data(), batch, q_len, q_heads, dim),
                                   .k = kumiko::ConstTensor::bshd(k.data(), batch, kv_len, kv_heads, dim),
                                   .v = kumiko::ConstTensor::bshd(v.data(), batch, kv_len, kv_heads, dim),
                                   .out = kumiko::Tensor::bshd(out.data(), batch, q_len, q_heads, dim),
                                   .is_causal = true};
  kumiko::Plan plan;
  if (kumiko::Status s = kumiko::plan(context, args, &plan); !s.ok())
    return std::puts(s.message().c_str()), 1;
  if (kumiko::Status s = plan.run(args); !s.ok()) return std::puts(s.message().c_str()), 1;

  double worst = 0;
  for (int b = 0; b < batch; ++b) {
    for (int h = 0; h < q_heads; ++h) {
      for (int i = 0; i < q_len; ++i) {
        const auto row = [&](const std::vector<float>& t, int len, int heads, int pos, int head) {
          return t.data() + ((b * len + pos) * heads + head) * dim;
        };
        const int kv_head = h / (q_heads / kv_heads);
        std::vector<double> expected(dim, 0.0);
        double sum = 0;
        for (int j = 0; j <= i + kv_len - q_len; ++j) {
          double score = 0;
          for (int d = 0; d < dim; ++d)
            score += double(row(q, q_len, q_heads, i, h)[d]) * row(k, kv_len, kv_heads, j, kv_head)[d];
          const double p = std::exp(score / std::sqrt(double(dim)));
          sum += p;
          for (int d = 0; d < dim; ++d) expected[d] += p * row(v, kv_len, kv_heads, j, kv_head)[d];
        }
        for (int d = 0; d < dim; ++d) {
          const double error = std::fabs(row(out, q_len, q_heads, i, h)[d] - expected[d] / sum);
          if (!std::isnan(worst) && !(error <= worst)) worst = error;  // a NaN stays
        }
      }
    }
  }
  std::printf("%s, %d threads: largest error %.2e\n", context.isa().c_str(), context.num_threads(), worst);
  return worst < 4e-6 ? 0 : 1;
}
