// SPDX-License-Identifier: Apache-2.0
/* int8 queries and keys from strict C99. Prints each failed expectation; exits 1 if there is one. */
#include <kumiko/attention_c.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "expect.h"

enum { HEADS = 2, Q_LEN = 3, KV_LEN = 19, DIM = 10 };
static float q[HEADS * Q_LEN * DIM], k[HEADS * KV_LEN * DIM], v[HEADS * KV_LEN * DIM];
static int8_t q8[HEADS * Q_LEN * DIM], k8[HEADS * KV_LEN * DIM];
static float q_scale[HEADS * Q_LEN], k_scale[HEADS * 2 * KV_LEN], out[HEADS * Q_LEN * DIM];

static void fill(float* data, size_t count, unsigned seed) {
  for (size_t i = 0; i < count; ++i) {
    seed = seed * 1664525u + 1013904223u;
    data[i] = (float)(seed >> 16) / 32768.0f - 1.0f;
  }
}

static kumiko_const_tensor bytes_of(const int8_t* data, int64_t len) {
  kumiko_const_tensor tensor = kumiko_const_tensor_bhsd(NULL, 1, HEADS, len, DIM);
  tensor.data = data;
  tensor.dtype = KUMIKO_I8;
  return tensor;
}

static kumiko_status quantize(const kumiko_context* context, const float* from, int64_t len, int8_t* to,
                              float* scale, const int64_t* stride) {
  const kumiko_const_tensor x = kumiko_const_tensor_bhsd(from, 1, HEADS, len, DIM);
  kumiko_tensor rows = kumiko_tensor_bhsd(NULL, 1, HEADS, len, DIM);
  rows.data = to;
  rows.dtype = KUMIKO_I8;
  return kumiko_quantize_rows(context, &x, &rows, scale, stride);
}

/* Of the values that the integers and scales stand for. */
static double expected(int h, int i, int d) {
  double sum = 0, weighted = 0;
  for (int j = 0; j < KV_LEN; ++j) {
    double score = 0;
    for (int e = 0; e < DIM; ++e)
      score += (double)q8[(h * Q_LEN + i) * DIM + e] * (double)k8[(h * KV_LEN + j) * DIM + e];
    score *= (double)q_scale[h * Q_LEN + i] * (double)k_scale[(h * KV_LEN + j) * 2] / sqrt((double)DIM);
    sum += exp(score);
    weighted += exp(score) * (double)v[(h * KV_LEN + j) * DIM + d];
  }
  return weighted / sum;
}

int main(void) {
  const int64_t apart[3] = {HEADS * KV_LEN * 2, KV_LEN * 2, 2};
  kumiko_context* context = NULL;
  kumiko_attention_args args = KUMIKO_ATTENTION_ARGS_INIT;
  EXPECT(kumiko_context_create(NULL, &context) == KUMIKO_OK);
  if (context == NULL) return 1;
  fill(q, sizeof(q) / sizeof(float), 1);
  fill(k, sizeof(k) / sizeof(float), 2);
  fill(v, sizeof(v) / sizeof(float), 3);
  EXPECT(quantize(context, q, Q_LEN, q8, q_scale, NULL) == KUMIKO_OK);
  EXPECT(quantize(context, k, KV_LEN, k8, k_scale, apart) == KUMIKO_OK);
  EXPECT(k_scale[1] == 0.0f);
  args.q = bytes_of(q8, Q_LEN);
  args.k = bytes_of(k8, KV_LEN);
  args.v = kumiko_const_tensor_bhsd(v, 1, HEADS, KV_LEN, DIM);
  args.out = kumiko_tensor_bhsd(out, 1, HEADS, Q_LEN, DIM);
  args.q_scale = q_scale;
  args.q_scale_stride[1] = Q_LEN;
  args.q_scale_stride[2] = 1;
  args.k_scale = k_scale;
  memcpy(args.k_scale_stride, apart, sizeof(apart));
  args.precision = KUMIKO_PRECISION_INT8;
  EXPECT(kumiko_attention_forward(context, &args) == KUMIKO_OK);
  for (int h = 0; h < HEADS; ++h)
    for (int i = 0; i < Q_LEN; ++i)
      for (int d = 0; d < DIM; ++d)
        EXPECT(fabs((double)out[(h * Q_LEN + i) * DIM + d] - expected(h, i, d)) < 1e-6);

  args.precision = KUMIKO_PRECISION_STANDARD;
  EXPECT_ERROR(kumiko_attention_forward(context, &args), KUMIKO_UNSUPPORTED, "precision");
  args.precision = 4;
  EXPECT_ERROR(kumiko_attention_forward(context, &args), KUMIKO_INVALID_ARGUMENT, "0 to 3");
  args.precision = KUMIKO_PRECISION_AUTOMATIC;
  args.lse = (float*)q_scale; /* Fields are named as in C, of which some are views in C++. */
  EXPECT_ERROR(kumiko_attention_forward(context, &args), KUMIKO_INVALID_ARGUMENT, "lse is ");
  EXPECT(strstr(kumiko_last_error(), "expected memory apart from q_scale") != NULL);
  args.lse = NULL;
  args.q.data = args.k.data = NULL;
  EXPECT_ERROR(kumiko_attention_forward(context, &args), KUMIKO_INVALID_ARGUMENT, "q.data is null");
  args.q.data = q8;
  args.k.data = k8;
  args.k_scale_stride[1] = -1;
  EXPECT_ERROR(kumiko_attention_forward(context, &args), KUMIKO_INVALID_ARGUMENT, "k_scale_stride[1] ");
  EXPECT_ERROR(quantize(NULL, q, Q_LEN, q8, q_scale, NULL), KUMIKO_INVALID_ARGUMENT, "context is NULL");
  EXPECT_ERROR(quantize(context, q, Q_LEN, q8, NULL, NULL), KUMIKO_INVALID_ARGUMENT, "scale is null");
  EXPECT_ERROR(kumiko_quantize_rows(context, NULL, NULL, q_scale, NULL), KUMIKO_INVALID_ARGUMENT,
               "x is NULL");
  EXPECT_ERROR(kumiko_quantize_rows(context, &args.v, NULL, q_scale, NULL), KUMIKO_INVALID_ARGUMENT,
               "out is NULL");
  kumiko_context_destroy(context);
  printf("%d expectations, %d failed\n", expectations, failures);
  return failures == 0 ? 0 : 1;
}
