// SPDX-License-Identifier: Apache-2.0
/* A step's new tokens from strict C99: rotated keys and their values into pages, as bf16, and rotated
 * queries. Prints each failed expectation; exits 1 if there is one. */
#include <kumiko/kv_append_c.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "expect.h"
#include "naive_attention.h"

enum { TOKENS = 5, Q_HEADS = 4, KV_HEADS = 2, DIM = 12, ROTARY = 8, PAGES = 3, PAGE = 4 };

static const int64_t slots[TOKENS] = {9, 2, -1, 3, 0};
static const int64_t positions[TOKENS] = {0, 1, 2, 1000, 1000000};
static float q[TOKENS][Q_HEADS][DIM], k[TOKENS][KV_HEADS][DIM], v[TOKENS][KV_HEADS][DIM];
static float q_out[TOKENS][Q_HEADS][DIM];
static uint16_t k_cache[PAGES][PAGE][KV_HEADS][DIM], v_cache[PAGES][PAGE][KV_HEADS][DIM];

static float of_bf16(uint16_t x) {
  const uint32_t bits = (uint32_t)x << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static double rotated(const float* row, int64_t d, int64_t position) {
  const int64_t half = ROTARY / 2, i = d % half;
  if (d >= ROTARY) return row[d];
  const double angle = (double)position * pow(10000.0, -2.0 * (double)i / ROTARY);
  return d < half ? row[d] * cos(angle) - row[d + half] * sin(angle)
                  : row[d] * cos(angle) + row[d - half] * sin(angle);
}

int main(void) {
  kumiko_context* context = NULL;
  EXPECT(kumiko_context_create(NULL, &context) == KUMIKO_OK);
  uint32_t seed = 7;
  for (int64_t t = 0; t < TOKENS; ++t) {
    for (int64_t h = 0; h < Q_HEADS; ++h) {
      for (int64_t d = 0; d < DIM; ++d) {
        seed = seed * 1664525u + 1013904223u;
        q[t][h][d] = (float)(int32_t)seed * 0x1p-31f;
        if (h < KV_HEADS) k[t][h][d] = -q[t][h][d], v[t][h][d] = 0.5f * q[t][h][d];
      }
    }
  }
  memset(k_cache, 0xff, sizeof k_cache);
  memset(v_cache, 0xff, sizeof v_cache);

  kumiko_kv_append_args args = KUMIKO_KV_APPEND_ARGS_INIT;
  args.key = kumiko_const_tensor_bshd(&k[0][0][0], 1, TOKENS, KV_HEADS, DIM);
  args.value = kumiko_const_tensor_bshd(&v[0][0][0], 1, TOKENS, KV_HEADS, DIM);
  args.key_cache = kumiko_tensor_bshd((float*)(void*)k_cache, PAGES, PAGE, KV_HEADS, DIM);
  args.value_cache = kumiko_tensor_bshd((float*)(void*)v_cache, PAGES, PAGE, KV_HEADS, DIM);
  args.key_cache.dtype = args.value_cache.dtype = KUMIKO_BF16;
  args.query = kumiko_const_tensor_bshd(&q[0][0][0], 1, TOKENS, Q_HEADS, DIM);
  args.query_out = kumiko_tensor_bshd(&q_out[0][0][0], 1, TOKENS, Q_HEADS, DIM);
  args.slot_mapping = slots;
  args.positions = positions;
  args.rotary_dim = ROTARY;
  EXPECT(kumiko_kv_append(context, &args) == KUMIKO_OK);

  double worst = 0, worst_query = 0;
  int written[PAGES * PAGE] = {0};
  for (int64_t t = 0; t < TOKENS; ++t) {
    for (int64_t h = 0; h < Q_HEADS; ++h) {
      for (int64_t d = 0; d < DIM; ++d)
        worst_query = naive_worst(worst_query, fabs(q_out[t][h][d] - rotated(q[t][h], d, positions[t])));
    }
    if (slots[t] < 0) continue;
    written[slots[t]] = 1;
    for (int64_t h = 0; h < KV_HEADS; ++h) {
      for (int64_t d = 0; d < DIM; ++d) {
        const float key = of_bf16(k_cache[slots[t] / PAGE][slots[t] % PAGE][h][d]),
                    value = of_bf16(v_cache[slots[t] / PAGE][slots[t] % PAGE][h][d]);
        worst = naive_worst(worst, fabs(key - rotated(k[t][h], d, positions[t])));
        worst = naive_worst(worst, fabs((double)value - v[t][h][d]));
      }
    }
  }
  EXPECT(worst_query < 1e-6);
  EXPECT(worst < 0x1p-8); /* half a unit of numbers below 2 */
  for (int64_t slot = 0; slot < PAGES * PAGE; ++slot) {
    for (int64_t i = 0; i < KV_HEADS * DIM; ++i) {
      const uint16_t *key = &k_cache[slot / PAGE][slot % PAGE][0][0],
                     *value = &v_cache[slot / PAGE][slot % PAGE][0][0];
      EXPECT(written[slot] || (key[i] == 0xffff && value[i] == 0xffff));
    }
  }

  int64_t repeated[TOKENS] = {9, 2, -1, 9, 0};
  args.slot_mapping = repeated;
  EXPECT_ERROR(kumiko_kv_append(context, &args), KUMIKO_INVALID_ARGUMENT, "slot_mapping[3] is 9");
  repeated[3] = 12;
  EXPECT_ERROR(kumiko_kv_append(context, &args), KUMIKO_INVALID_ARGUMENT, "slot_mapping[3] is 12");
  kumiko_context_destroy(context);
  printf("%d expectations, %d failed\n", expectations, failures);
  return failures != 0;
}
