// SPDX-License-Identifier: Apache-2.0
#include <kumiko/attention.h>

#include <cstdio>
#include <random>
#include <vector>

int main() {
  const int batch = 1, q_heads = 8, kv_heads = 2, seq = 512, head_dim = 64;
  std::mt19937 random(42);
  std::normal_distribution<float> normal;
  std::vector<float> q(batch * q_heads * seq * head_dim), out(q.size());
  std::vector<float> k(batch * kv_heads * seq * head_dim), v(k.size());
  for (auto* tensor : {&q, &k, &v}) {
    for (float& x : *tensor) x = normal(random);
  }
  // Causal grouped-query attention: four query heads share each key/value head.
  const kumiko::AttentionArgs args{.q = kumiko::ConstTensor::bhsd(q.data(), batch, q_heads, seq, head_dim),
                                   .k = kumiko::ConstTensor::bhsd(k.data(), batch, kv_heads, seq, head_dim),
                                   .v = kumiko::ConstTensor::bhsd(v.data(), batch, kv_heads, seq, head_dim),
                                   .out = kumiko::Tensor::bhsd(out.data(), batch, q_heads, seq, head_dim),
                                   .is_causal = true};
  kumiko::Context context;
  kumiko::Plan plan;
  kumiko::Status status = kumiko::Context::create({}, &context);
  if (status.ok()) status = kumiko::attention_forward(context, args);
  if (status.ok()) status = kumiko::plan(context, args, &plan);
  if (!status.ok()) return std::printf("%s\n", status.message().c_str()), 1;
  std::printf("first row sees key 0 alone: %.4f %.4f = v: %.4f %.4f\n", out[0], out[1], v[0], v[1]);
  const float* last = &out[(seq - 1) * head_dim];
  std::printf("last row of head 0: %.4f %.4f\n%s", last[0], last[1], plan.explain().c_str());
}
