// SPDX-License-Identifier: Apache-2.0
/* The one-shot call from C; each element is compared with attention by its formula. */
#include <kumiko/attention_c.h>
#include <math.h>
#include <stdio.h>

enum { HEADS = 3, LEN = 21, DIM = 16 };

int main(void) {
  static float q[HEADS * LEN * DIM], k[HEADS * LEN * DIM], v[HEADS * LEN * DIM], out[HEADS * LEN * DIM];
  kumiko_attention_args args = KUMIKO_ATTENTION_ARGS_INIT;
  double worst = 0;
  for (int i = 0; i < HEADS * LEN * DIM; ++i) {
    q[i] = (float)sin(i * 1.3);
    k[i] = (float)cos(i * 0.7);
    v[i] = (float)sin(i * 0.2 + 1);
  }
  args.q = kumiko_const_tensor_bhsd(q, 1, HEADS, LEN, DIM);
  args.k = kumiko_const_tensor_bhsd(k, 1, HEADS, LEN, DIM);
  args.v = kumiko_const_tensor_bhsd(v, 1, HEADS, LEN, DIM);
  args.out = kumiko_tensor_bhsd(out, 1, HEADS, LEN, DIM);
  if (kumiko_attention_forward_default(&args) != KUMIKO_OK) {
    puts(kumiko_last_error());
    return 1;
  }
  for (int row = 0; row < HEADS * LEN; ++row) {
    for (int d = 0; d < DIM; ++d) {
      double sum = 0, expected = 0;
      for (int j = 0; j < LEN; ++j) {
        const int key = row / LEN * LEN + j;
        double score = 0;
        for (int c = 0; c < DIM; ++c) score += (double)q[row * DIM + c] * (double)k[key * DIM + c];
        sum += exp(score / sqrt((double)DIM));
        expected += exp(score / sqrt((double)DIM)) * (double)v[key * DIM + d];
      }
      const double error = fabs((double)out[row * DIM + d] - expected / sum);
      if (!isnan(worst) && !(error <= worst)) worst = error; /* a NaN stays */
    }
  }
  printf("kumiko %s from C: largest error %.2e\n", kumiko_version(), worst);
  args.q.shape[1] = 2;
  if (kumiko_attention_forward_default(&args) != KUMIKO_INVALID_ARGUMENT || kumiko_last_error()[0] == '\0')
    return 1;
  return worst < 4e-6 ? 0 : 1;
}
