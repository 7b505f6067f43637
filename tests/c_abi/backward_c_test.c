// SPDX-License-Identifier: Apache-2.0
/* Gradients from strict C99: of one head, against differences of the loss sum(dout * out). Prints each failed
 * expectation; exits 1 if there is one. */
#include <kumiko/attention_backward_c.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "expect.h"

enum { QUERIES = 3, KEYS = 4, DIM = 5, VALUE_DIM = 2 };

static float q[QUERIES][DIM], k[KEYS][DIM], v[KEYS][VALUE_DIM], out[QUERIES][VALUE_DIM], lse[QUERIES];
static float dout[QUERIES][VALUE_DIM], dq[QUERIES][DIM], dk[KEYS][DIM], dv[KEYS][VALUE_DIM];

/* Causal: query i stands at key i + KEYS - QUERIES. */
static double loss(void) {
  double sum = 0;
  for (int i = 0; i < QUERIES; ++i) {
    double all = 0, weighted = 0;
    for (int j = 0; j <= i + KEYS - QUERIES; ++j) {
      double score = 0, value = 0;
      for (int d = 0; d < DIM; ++d) score += (double)q[i][d] * k[j][d];
      for (int d = 0; d < VALUE_DIM; ++d) value += (double)dout[i][d] * v[j][d];
      const double weight = exp(score / sqrt(DIM));
      all += weight;
      weighted += weight * value;
    }
    sum += weighted / all;
  }
  return sum;
}

static void expect_differences(float* x, const float* gradient, int count) {
  for (int i = 0; i < count; ++i) {
    const float at = x[i], above = at + 0x1p-8f, below = at - 0x1p-8f;
    x[i] = above;
    const double high = loss();
    x[i] = below;
    const double low = loss();
    x[i] = at;
    EXPECT(fabs((high - low) / ((double)above - below) - gradient[i]) < 1e-4);
  }
}

static void fill(float* x, int count) {
  static uint32_t seed = 11;
  for (int i = 0; i < count; ++i) {
    seed = seed * 1664525u + 1013904223u;
    x[i] = (float)(int32_t)seed * 0x1p-31f;
  }
}

int main(void) {
  kumiko_context* context = NULL;
  EXPECT(kumiko_context_create(NULL, &context) == KUMIKO_OK);
  fill(&q[0][0], QUERIES * DIM), fill(&k[0][0], KEYS * DIM), fill(&v[0][0], KEYS * VALUE_DIM);
  fill(&dout[0][0], QUERIES * VALUE_DIM);
  kumiko_attention_args forward = KUMIKO_ATTENTION_ARGS_INIT;
  forward.q = kumiko_const_tensor_bshd(&q[0][0], 1, QUERIES, 1, DIM);
  forward.k = kumiko_const_tensor_bshd(&k[0][0], 1, KEYS, 1, DIM);
  forward.v = kumiko_const_tensor_bshd(&v[0][0], 1, KEYS, 1, VALUE_DIM);
  forward.out = kumiko_tensor_bshd(&out[0][0], 1, QUERIES, 1, VALUE_DIM);
  forward.lse = lse;
  forward.is_causal = 1;
  EXPECT(kumiko_attention_forward(context, &forward) == KUMIKO_OK);

  kumiko_backward_args args = KUMIKO_BACKWARD_ARGS_INIT;
  args.forward = &forward;
  args.dout = kumiko_const_tensor_bshd(&dout[0][0], 1, QUERIES, 1, VALUE_DIM);
  args.dq = kumiko_tensor_bshd(&dq[0][0], 1, QUERIES, 1, DIM);
  args.dk = kumiko_tensor_bshd(&dk[0][0], 1, KEYS, 1, DIM);
  args.dv = kumiko_tensor_bshd(&dv[0][0], 1, KEYS, 1, VALUE_DIM);
  EXPECT(kumiko_attention_backward(context, &args) == KUMIKO_OK);
  expect_differences(&q[0][0], &dq[0][0], QUERIES * DIM);
  expect_differences(&k[0][0], &dk[0][0], KEYS * DIM);
  expect_differences(&v[0][0], &dv[0][0], KEYS * VALUE_DIM);

  kumiko_backward_plan* plan = NULL;
  static float again[QUERIES][DIM];
  EXPECT(kumiko_backward_plan_create(context, &args, &plan) == KUMIKO_OK);
  args.dq = kumiko_tensor_bshd(&again[0][0], 1, QUERIES, 1, DIM);
  EXPECT(kumiko_backward_plan_run(plan, &args) == KUMIKO_OK);
  EXPECT(memcmp(again, dq, sizeof(dq)) == 0);
  const char* text = NULL;
  EXPECT(kumiko_backward_plan_explain(plan, &text) == KUMIKO_OK && strstr(text, "workspace: ") != NULL);
  kumiko_backward_plan_destroy(plan);
  forward.window_left = -2;
  EXPECT_ERROR(kumiko_attention_backward(context, &args), KUMIKO_INVALID_ARGUMENT,
               "forward->window_left is -2");
  forward.window_left = -1;
  forward.lse_base = 9;
  EXPECT_ERROR(kumiko_attention_backward(context, &args), KUMIKO_INVALID_ARGUMENT, "forward->lse_base is 9");
  forward.lse_base = KUMIKO_LSE_NATURAL;
  forward.lse = NULL;
  EXPECT_ERROR(kumiko_attention_backward(context, &args), KUMIKO_INVALID_ARGUMENT, "forward->lse is null");
  forward.lse = lse;
  args.dlse = lse;
  args.dlse_stride[1] = -1;
  EXPECT_ERROR(kumiko_attention_backward(context, &args), KUMIKO_INVALID_ARGUMENT, "dlse_stride[1] ");
  args.dlse = NULL;
  args.dlse_stride[1] = 0;
  args.forward = NULL;
  EXPECT(kumiko_attention_backward(context, &args) == KUMIKO_INVALID_ARGUMENT);
  kumiko_context_destroy(context);
  printf("%d expectations, %d failed\n", expectations, failures);
  return failures != 0;
}
