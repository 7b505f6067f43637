// SPDX-License-Identifier: Apache-2.0
/* Attention by its formula, in double, for contiguous [batch, heads, seq, dim]: the reference of the C
 * programs. */
#ifndef KUMIKO_TESTS_NAIVE_ATTENTION_H
#define KUMIKO_TESTS_NAIVE_ATTENTION_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

typedef struct naive_shape {
  int64_t batch, q_heads, kv_heads, q_len, kv_len, head_dim, v_head_dim;
} naive_shape;

/* One element of the output; `causal`: with a bottom-right causal mask. `lse` receives its log-sum-exp. */
static inline double naive_element(const naive_shape* s, const float* q, const float* k, const float* v,
                                   int causal, int64_t b, int64_t h, int64_t i, int64_t d, double* lse) {
  const int64_t kv_head = h / (s->q_heads / s->kv_heads);
  const float* q_row = q + ((b * s->q_heads + h) * s->q_len + i) * s->head_dim;
  const float* k_head = k + (b * s->kv_heads + kv_head) * s->kv_len * s->head_dim;
  const float* v_head = v + (b * s->kv_heads + kv_head) * s->kv_len * s->v_head_dim;
  int64_t end = causal ? i + s->kv_len - s->q_len + 1 : s->kv_len;
  double sum = 0, result = 0;
  if (end > s->kv_len) end = s->kv_len;
  for (int64_t j = 0; j < end; ++j) {
    double score = 0;
    for (int64_t c = 0; c < s->head_dim; ++c) score += (double)q_row[c] * (double)k_head[j * s->head_dim + c];
    /* Inputs are in [-1, 1), so double needs no subtraction of the maximum. */
    const double p = exp(score / sqrt((double)s->head_dim));
    sum += p;
    result += p * (double)v_head[j * s->v_head_dim + d];
  }
  *lse = log(sum);
  return end > 0 ? result / sum : 0.0;
}

/* The larger of two distances, or NaN if either is NaN; fmax would drop a NaN. */
static inline double naive_worst(double worst, double distance) {
  return isnan(worst) || distance <= worst ? worst : distance;
}

/* Repeatable values in [-1, 1): Numerical Recipes' linear congruential generator. */
static inline void naive_fill(float* data, int64_t count, uint32_t seed) {
  uint32_t state = seed;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    data[i] = (float)(state >> 8) / (float)(1u << 23) - 1.0f;
  }
}

#endif
