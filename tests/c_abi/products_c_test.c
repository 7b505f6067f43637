// SPDX-License-Identifier: Apache-2.0
/* kumiko_softmax_pv and kumiko_fused_gemm from strict C99: results against double, errors, sized structs.
 * Prints each failed expectation; exits 1 if there is one. */
#include <kumiko/attention_c.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "expect.h"
#include "naive_attention.h"

enum { HEADS = 2, ROWS = 13, KEYS = 37, DIM = 9, V_DIM = 5 };
static float q[HEADS * ROWS * DIM], k[KEYS * DIM], v[KEYS * V_DIM], scores[HEADS * ROWS * KEYS];
static int32_t integers[HEADS * ROWS * KEYS];
static float out[HEADS * ROWS * V_DIM], lse[HEADS * ROWS];

static kumiko_softmax_pv_args softmax_pv(void) {
  kumiko_softmax_pv_args args = KUMIKO_SOFTMAX_PV_ARGS_INIT;
  args.scores = kumiko_const_tensor_bhsd(scores, 1, HEADS, ROWS, KEYS);
  args.v = kumiko_const_tensor_bhsd(v, 1, 1, KEYS, V_DIM);
  args.out = kumiko_tensor_bhsd(out, 1, HEADS, ROWS, V_DIM);
  args.lse = lse;
  return args;
}

static kumiko_fused_gemm_args fused_gemm(void) {
  kumiko_fused_gemm_args args = KUMIKO_FUSED_GEMM_ARGS_INIT;
  args.q = kumiko_const_tensor_bhsd(q, 1, HEADS, ROWS, DIM);
  args.k = kumiko_const_tensor_bhsd(k, 1, 1, KEYS, DIM);
  args.v = kumiko_const_tensor_bhsd(v, 1, 1, KEYS, V_DIM);
  args.out = kumiko_tensor_bhsd(out, 1, HEADS, ROWS, V_DIM);
  return args;
}

/* Largest distance of out and lse from the softmax of scores times scale. */
static double softmax_distance(double scale) {
  double worst = 0;
  for (int row = 0; row < HEADS * ROWS; ++row) {
    double sum = 0, result[V_DIM] = {0};
    for (int j = 0; j < KEYS; ++j) {
      const double p = exp(scale * (double)scores[row * KEYS + j]);
      sum += p;
      for (int d = 0; d < V_DIM; ++d) result[d] += p * (double)v[j * V_DIM + d];
    }
    worst = naive_worst(worst, fabs(log(sum) - (double)lse[row]));
    for (int d = 0; d < V_DIM; ++d)
      worst = naive_worst(worst, fabs(result[d] / sum - (double)out[row * V_DIM + d]));
  }
  return worst;
}

static void test_softmax_pv(const kumiko_context* context) {
  const int32_t pipelines[] = {KUMIKO_PIPELINE_AUTOMATIC, KUMIKO_PIPELINE_ONLINE, KUMIKO_PIPELINE_TWO_PASS,
                               KUMIKO_PIPELINE_INTERLEAVED, KUMIKO_PIPELINE_THREE_PASS};
  kumiko_softmax_pv_args args = softmax_pv();
  args.scale = 2.0f;
  for (size_t p = 0; p < sizeof(pipelines) / sizeof(*pipelines); ++p) {
    args.pipeline = pipelines[p];
    memset(out, 0, sizeof(out));
    EXPECT(kumiko_softmax_pv(context, &args) == KUMIKO_OK);
    EXPECT(softmax_distance(2.0) < 1e-5);
  }
  args.scores = kumiko_const_tensor_bhsd((const float*)integers, 1, HEADS, ROWS, KEYS);
  args.scores.dtype = KUMIKO_I32;
  args.scale = 1.0f / 64;
  memset(out, 0, sizeof(out));
  EXPECT(kumiko_softmax_pv(context, &args) == KUMIKO_OK);
  EXPECT(softmax_distance(1.0) < 1e-5); /* scores are the integers / 64 */
}

static void test_fused_gemm(const kumiko_context* context) {
  kumiko_fused_gemm_args args = fused_gemm();
  double worst = 0;
  args.scale = 0.5f;
  EXPECT(kumiko_fused_gemm(context, &args) == KUMIKO_OK);
  for (int row = 0; row < HEADS * ROWS; ++row) {
    for (int d = 0; d < V_DIM; ++d) {
      double sum = 0;
      for (int j = 0; j < KEYS; ++j) {
        double score = 0;
        for (int c = 0; c < DIM; ++c) score += (double)q[row * DIM + c] * (double)k[j * DIM + c];
        sum += 0.5 * score * (double)v[j * V_DIM + d];
      }
      worst = naive_worst(worst, fabs(sum - (double)out[row * V_DIM + d]));
    }
  }
  EXPECT(worst < 1e-5);
}

static void test_errors(const kumiko_context* context) {
  kumiko_softmax_pv_args pv = softmax_pv();
  kumiko_fused_gemm_args fused = fused_gemm();
  EXPECT_ERROR(kumiko_softmax_pv(NULL, &pv), KUMIKO_INVALID_ARGUMENT, "context");
  EXPECT_ERROR(kumiko_softmax_pv(context, NULL), KUMIKO_INVALID_ARGUMENT, "args");
  EXPECT_ERROR(kumiko_fused_gemm(NULL, &fused), KUMIKO_INVALID_ARGUMENT, "context");
  EXPECT_ERROR(kumiko_fused_gemm(context, NULL), KUMIKO_INVALID_ARGUMENT, "args");
  pv.pipeline = 6;
  EXPECT_ERROR(kumiko_softmax_pv(context, &pv), KUMIKO_INVALID_ARGUMENT, "pipeline is 6");
  pv.pipeline = KUMIKO_PIPELINE_DECODE;
  EXPECT_ERROR(kumiko_softmax_pv(context, &pv), KUMIKO_UNSUPPORTED, "pipeline is decode");
  pv = softmax_pv();
  pv.scores.dtype = KUMIKO_F16;
  EXPECT_ERROR(kumiko_softmax_pv(context, &pv), KUMIKO_INVALID_ARGUMENT, "scores.dtype is f16");
  pv = softmax_pv();
  pv.is_causal = 2;
  EXPECT_ERROR(kumiko_softmax_pv(context, &pv), KUMIKO_INVALID_ARGUMENT, "is_causal is 2");
  pv = softmax_pv();
  pv.struct_size = 8;
  EXPECT_ERROR(kumiko_softmax_pv(context, &pv), KUMIKO_INVALID_ARGUMENT, "struct_size is 8");
  fused.precision = 4;
  EXPECT_ERROR(kumiko_fused_gemm(context, &fused), KUMIKO_INVALID_ARGUMENT, "precision is 4");
  fused.precision = KUMIKO_PRECISION_HALF;
  EXPECT_ERROR(kumiko_fused_gemm(context, &fused), KUMIKO_UNSUPPORTED, "precision is \"half\"");
  pv = softmax_pv();
  pv.reserved = 3;
  EXPECT_ERROR(kumiko_softmax_pv(context, &pv), KUMIKO_INVALID_ARGUMENT, "reserved is 3");
  pv.reserved = 0, pv.precision = -1;
  EXPECT_ERROR(kumiko_softmax_pv(context, &pv), KUMIKO_INVALID_ARGUMENT, "precision is -1");
  fused = fused_gemm();
  fused.k.shape[3] = 4;
  EXPECT_ERROR(kumiko_fused_gemm(context, &fused), KUMIKO_INVALID_ARGUMENT, "k.shape[3]");
  fused = fused_gemm();
  fused.struct_size = 0;
  EXPECT_ERROR(kumiko_fused_gemm(context, &fused), KUMIKO_INVALID_ARGUMENT, "struct_size is 0");
}

int main(void) {
  kumiko_context* context = NULL;
  naive_fill(q, sizeof(q) / sizeof(float), 1);
  naive_fill(k, sizeof(k) / sizeof(float), 2);
  naive_fill(v, sizeof(v) / sizeof(float), 3);
  naive_fill(scores, sizeof(scores) / sizeof(float), 4);
  for (int i = 0; i < HEADS * ROWS * KEYS; ++i) {
    integers[i] = (int32_t)(scores[i] * 64);
    scores[i] = (float)integers[i] / 64;
  }
  EXPECT(kumiko_context_create(NULL, &context) == KUMIKO_OK);
  if (context == NULL) return 1;
  test_softmax_pv(context);
  test_fused_gemm(context);
  test_errors(context);
  kumiko_context_destroy(context);
  printf("%d failed\n", failures);
  return failures != 0;
}
