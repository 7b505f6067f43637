// SPDX-License-Identifier: Apache-2.0
/* Keys in tiles of 16 from strict C99: packed from rows, read by attention with the bits of the rows, and
 * unpacked again. Prints each failed expectation; exits 1 if there is one. */
#include <kumiko/kv_append_c.h>
#include <stdint.h>
#include <string.h>

#include "expect.h"

enum { PAGES = 3, HEADS = 2, PAGE = 16, DIM = 5, KEYS = 30 };

static float rows[PAGES][HEADS][PAGE][DIM], tiles[PAGES][HEADS][DIM][PAGE], back[PAGES][HEADS][PAGE][DIM];
static float v[PAGES][HEADS][PAGE][DIM], q[HEADS][DIM], out[2][HEADS][DIM];
static const int32_t table[2] = {2, 0}, used[1] = {KEYS};

int main(void) {
  kumiko_context* context = NULL;
  EXPECT(kumiko_context_create(NULL, &context) == KUMIKO_OK);
  uint32_t seed = 7;
  for (int64_t i = 0; i < PAGES * HEADS * PAGE * DIM; ++i) {
    seed = seed * 1664525u + 1013904223u;
    (&rows[0][0][0][0])[i] = (float)(int32_t)seed * 0x1p-31f;
    (&v[0][0][0][0])[i] = (float)(int32_t)(seed * 3u) * 0x1p-31f;
    if (i < HEADS * DIM) (&q[0][0])[i] = (float)(int32_t)(seed * 5u) * 0x1p-31f;
  }
  const kumiko_const_tensor in_rows = kumiko_const_tensor_bhsd(&rows[0][0][0][0], PAGES, HEADS, PAGE, DIM);
  kumiko_tensor to_tiles = kumiko_tensor_bhsd(&tiles[0][0][0][0], PAGES, HEADS, PAGE, DIM);
  EXPECT(kumiko_pack_key_pages(context, &in_rows, &to_tiles) == KUMIKO_OK);
  for (int64_t p = 0; p < PAGES; ++p)
    for (int64_t h = 0; h < HEADS; ++h)
      for (int64_t j = 0; j < PAGE; ++j)
        for (int64_t d = 0; d < DIM; ++d) EXPECT(tiles[p][h][d][j] == rows[p][h][j][d]);
  const kumiko_const_tensor in_tiles = kumiko_const_tensor_bhsd(&tiles[0][0][0][0], PAGES, HEADS, PAGE, DIM);
  const kumiko_tensor to_rows = kumiko_tensor_bhsd(&back[0][0][0][0], PAGES, HEADS, PAGE, DIM);
  EXPECT(kumiko_unpack_key_pages(context, &in_tiles, &to_rows) == KUMIKO_OK);
  EXPECT(memcmp(back, rows, sizeof rows) == 0);

  kumiko_attention_args args = KUMIKO_ATTENTION_ARGS_INIT;
  EXPECT(args.key_layout == KUMIKO_KEY_ROWS);
  args.q = kumiko_const_tensor_bhsd(&q[0][0], 1, HEADS, 1, DIM);
  args.v = kumiko_const_tensor_bhsd(&v[0][0][0][0], PAGES, HEADS, PAGE, DIM);
  args.block_table = table, args.max_pages = 2, args.seqused_k = used;
  for (int64_t i = 0; i < 2; ++i) {
    args.k = i == 0 ? in_rows : in_tiles;
    args.key_layout = i == 0 ? KUMIKO_KEY_ROWS : KUMIKO_KEY_TILES_OF_16;
    args.out = kumiko_tensor_bhsd(&out[i][0][0], 1, HEADS, 1, DIM);
    EXPECT(kumiko_attention_forward(context, &args) == KUMIKO_OK);
  }
  EXPECT(memcmp(out[0], out[1], sizeof out[0]) == 0);

  args.key_layout = 2;
  EXPECT(kumiko_attention_forward(context, &args) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(strcmp(kumiko_last_error(),
                "key_layout is 2; expected KUMIKO_KEY_ROWS (0) or KUMIKO_KEY_TILES_OF_16 (1)") == 0);
  EXPECT(kumiko_pack_key_pages(NULL, &in_rows, &to_tiles) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(strcmp(kumiko_last_error(), "context is NULL; expected a kumiko_context") == 0);
  EXPECT(kumiko_pack_key_pages(context, NULL, &to_tiles) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(strcmp(kumiko_last_error(), "rows is NULL; expected a kumiko_const_tensor") == 0);
  EXPECT(kumiko_unpack_key_pages(context, &in_tiles, NULL) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(strcmp(kumiko_last_error(), "rows is NULL; expected a kumiko_tensor") == 0);
  to_tiles.shape[2] = 8;
  EXPECT(kumiko_pack_key_pages(context, &in_rows, &to_tiles) == KUMIKO_INVALID_ARGUMENT);
  kumiko_context_destroy(context);
  printf("%d expectations, %d failed\n", expectations, failures);
  return failures != 0;
}
