// SPDX-License-Identifier: Apache-2.0
/* A step of a server from strict C99: two sequences, packed, with their keys and values in pages. Prints each
 * failed expectation; exits 1 if there is one. */
#include <kumiko/attention_c.h>
#include <stdio.h>
#include <string.h>

#include "expect.h"
#include "naive_attention.h"

enum { SEQUENCES = 2, Q_HEADS = 4, KV_HEADS = 2, HEAD_DIM = 24, V_HEAD_DIM = 17 };
enum { POSITIONS = 6, PAGES = 7, PAGE_KEYS = 16, MAX_PAGES = 3, MAX_KEYS = MAX_PAGES * PAGE_KEYS };

/* One query of the first sequence, four of the second, and a position that belongs to neither. */
static const int32_t cu_seqlens_q[SEQUENCES + 1] = {0, 1, 5};
/* In no order. The first sequence has two pages only; the third entry names none. */
static int32_t block_table[SEQUENCES][MAX_PAGES] = {{5, 2, -1}, {0, 6, 3}};
static float q[Q_HEADS][POSITIONS][HEAD_DIM];
static float k[PAGES][KV_HEADS][PAGE_KEYS][HEAD_DIM];
static float v[PAGES][KV_HEADS][PAGE_KEYS][V_HEAD_DIM];
static float out[Q_HEADS][POSITIONS][V_HEAD_DIM];
static float lse[Q_HEADS][POSITIONS];
static const float untouched = 1234.5f;

static void clear_outputs(void) {
  for (int64_t i = 0; i < Q_HEADS * POSITIONS * V_HEAD_DIM; ++i) (&out[0][0][0])[i] = untouched;
  for (int64_t i = 0; i < Q_HEADS * POSITIONS; ++i) (&lse[0][0])[i] = untouched;
}

static int outputs_are_untouched(int64_t first_position) {
  for (int64_t h = 0; h < Q_HEADS; ++h) {
    for (int64_t i = first_position; i < POSITIONS; ++i) {
      if (lse[h][i] != untouched) return 0;
      for (int64_t d = 0; d < V_HEAD_DIM; ++d) {
        if (out[h][i][d] != untouched) return 0;
      }
    }
  }
  return 1;
}

/* Largest distance of a sequence's rows from the naive double computation over its own dense tensors. */
static double distance(int64_t b, int64_t kv_len) {
  const int64_t first = cu_seqlens_q[b], q_len = cu_seqlens_q[b + 1] - first;
  const naive_shape shape = {1, Q_HEADS, KV_HEADS, q_len, kv_len, HEAD_DIM, V_HEAD_DIM};
  static float own_q[Q_HEADS * POSITIONS * HEAD_DIM], own_k[KV_HEADS * MAX_KEYS * HEAD_DIM],
      own_v[KV_HEADS * MAX_KEYS * V_HEAD_DIM];
  double worst = 0;
  for (int64_t h = 0; h < Q_HEADS; ++h)
    memcpy(own_q + h * q_len * HEAD_DIM, q[h][first], (size_t)q_len * sizeof(q[0][0]));
  for (int64_t h = 0; h < KV_HEADS; ++h) {
    for (int64_t j = 0; j < kv_len; ++j) {
      const int32_t page = block_table[b][j / PAGE_KEYS];
      memcpy(own_k + (h * kv_len + j) * HEAD_DIM, k[page][h][j % PAGE_KEYS], sizeof(k[0][0][0]));
      memcpy(own_v + (h * kv_len + j) * V_HEAD_DIM, v[page][h][j % PAGE_KEYS], sizeof(v[0][0][0]));
    }
  }
  for (int64_t h = 0; h < Q_HEADS; ++h) {
    for (int64_t i = 0; i < q_len; ++i) {
      for (int64_t d = 0; d < V_HEAD_DIM; ++d) {
        double expected_lse = 0;
        const double expected = naive_element(&shape, own_q, own_k, own_v, 1, 0, h, i, d, &expected_lse);
        worst = naive_worst(worst, fabs(expected - (double)out[h][first + i][d]));
        worst = naive_worst(worst, fabs(expected_lse - (double)lse[h][first + i]));
      }
    }
  }
  return worst;
}

static void expect_rows(const int32_t* lengths) {
  /* As in attention_c_test.c: a bound of 64 roundings of 2^-24. */
  for (int64_t b = 0; b < SEQUENCES; ++b) EXPECT(distance(b, lengths[b]) < 4e-6);
  EXPECT(outputs_are_untouched(cu_seqlens_q[SEQUENCES]));
}

static kumiko_attention_args args_of(const int32_t* lengths) {
  kumiko_attention_args args = KUMIKO_ATTENTION_ARGS_INIT;
  args.q = kumiko_const_tensor_bhsd(&q[0][0][0], 1, Q_HEADS, POSITIONS, HEAD_DIM);
  args.k = kumiko_const_tensor_bhsd(&k[0][0][0][0], PAGES, KV_HEADS, PAGE_KEYS, HEAD_DIM);
  args.v = kumiko_const_tensor_bhsd(&v[0][0][0][0], PAGES, KV_HEADS, PAGE_KEYS, V_HEAD_DIM);
  args.out = kumiko_tensor_bhsd(&out[0][0][0], 1, Q_HEADS, POSITIONS, V_HEAD_DIM);
  args.lse = &lse[0][0];
  args.is_causal = 1;
  args.seqused_k = lengths;
  args.cu_seqlens_q = cu_seqlens_q;
  args.num_sequences = SEQUENCES;
  args.block_table = &block_table[0][0];
  args.max_pages = MAX_PAGES;
  return args;
}

static void test_pages(kumiko_context* context) {
  int32_t lengths[SEQUENCES] = {29, 38}, grown[SEQUENCES] = {30, 42};
  kumiko_attention_args args = args_of(lengths);
  kumiko_plan* plan = NULL;
  clear_outputs();
  EXPECT(kumiko_attention_forward(context, &args) == KUMIKO_OK);
  expect_rows(lengths);

  EXPECT(kumiko_plan_create(context, &args, &plan) == KUMIKO_OK);
  clear_outputs();
  EXPECT(kumiko_plan_run(plan, &args) == KUMIKO_OK);
  expect_rows(lengths);

  /* The next step: longer sequences, and a sequence whose second page is another one. */
  EXPECT(kumiko_plan_update(plan, grown, SEQUENCES) == KUMIKO_OK);
  args.seqused_k = grown;
  block_table[0][1] = 4;
  clear_outputs();
  EXPECT(kumiko_plan_run(plan, &args) == KUMIKO_OK);
  expect_rows(grown);

  /* The same with a table, and what is refused. */
  EXPECT(kumiko_plan_update_pages(plan, grown, SEQUENCES, &block_table[0][0], NULL) == KUMIKO_OK);
  clear_outputs();
  EXPECT(kumiko_plan_run(plan, &args) == KUMIKO_OK);
  expect_rows(grown);
  EXPECT_ERROR(kumiko_plan_update_pages(plan, grown, SEQUENCES, NULL, NULL), KUMIKO_INVALID_ARGUMENT,
               "block_table is NULL");
  EXPECT_ERROR(kumiko_plan_update_pages(NULL, grown, SEQUENCES, &block_table[0][0], NULL),
               KUMIKO_INVALID_ARGUMENT, "plan is NULL");
  EXPECT_ERROR(kumiko_plan_update_pages(plan, grown, SEQUENCES, &block_table[0][0], cu_seqlens_q),
               KUMIKO_INVALID_ARGUMENT, "kv_indptr is given");

  block_table[0][1] = PAGES;
  clear_outputs();
  EXPECT(kumiko_plan_run(plan, &args) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(strstr(kumiko_last_error(), "block_table[0, 1] is 7; expected 0..6") != NULL);
  EXPECT(outputs_are_untouched(0));
  kumiko_plan_destroy(plan);
}

/* The same pages in FlashInfer's lists: the second list has a page more than its keys need. */
static void test_lists(kumiko_context* context) {
  static const int32_t kv_indices[] = {99, 5, 2, 0, 6, 3}, kv_indptr[SEQUENCES + 1] = {1, 3, 6};
  int32_t lengths[SEQUENCES] = {29, 30}, grown[SEQUENCES] = {30, 42};
  kumiko_attention_args args = args_of(lengths);
  kumiko_plan* plan = NULL;
  block_table[0][1] = 2;
  args.block_table = kv_indices;
  args.kv_indptr = kv_indptr;
  clear_outputs();
  EXPECT(kumiko_attention_forward(context, &args) == KUMIKO_OK);
  expect_rows(lengths);

  EXPECT(kumiko_plan_create(context, &args, &plan) == KUMIKO_OK);
  EXPECT(kumiko_plan_update_pages(plan, grown, SEQUENCES, kv_indices, kv_indptr) == KUMIKO_OK);
  args.seqused_k = grown;
  clear_outputs();
  EXPECT(kumiko_plan_run(plan, &args) == KUMIKO_OK);
  expect_rows(grown);
  EXPECT_ERROR(kumiko_plan_update_pages(plan, grown, SEQUENCES, kv_indices, NULL), KUMIKO_INVALID_ARGUMENT,
               "kv_indptr is null");
  EXPECT_ERROR(kumiko_plan_update_pages(plan, grown, SEQUENCES, NULL, kv_indptr), KUMIKO_INVALID_ARGUMENT,
               "block_table is NULL");
  kumiko_plan_destroy(plan);
}

int main(void) {
  kumiko_context* context = NULL;
  naive_fill(&q[0][0][0], Q_HEADS * POSITIONS * HEAD_DIM, 1);
  naive_fill(&k[0][0][0][0], PAGES * KV_HEADS * PAGE_KEYS * HEAD_DIM, 2);
  naive_fill(&v[0][0][0][0], PAGES * KV_HEADS * PAGE_KEYS * V_HEAD_DIM, 3);
  EXPECT(kumiko_context_create(NULL, &context) == KUMIKO_OK);
  if (context != NULL) test_pages(context), test_lists(context);
  kumiko_context_destroy(context);
  printf("%d failed\n", failures);
  return failures != 0;
}
