/* SPDX-License-Identifier: Apache-2.0 */
/* The C ABI of libkumiko_mpi, from C. Every value is 1, so every output is 1. */
#include <kumiko/distributed_c.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kKeys = 1500, kHeads = 2, kDim = 4, kPages = 3 };

static int failures = 0;
#define EXPECT(condition)                                                              \
  do {                                                                                 \
    if (!(condition)) {                                                                \
      fprintf(stderr, "line %d: %s; %s\n", __LINE__, #condition, kumiko_last_error()); \
      ++failures;                                                                      \
    }                                                                                  \
  } while (0)

static float* filled(int64_t count, float value) {
  float* data = malloc((size_t)(count > 0 ? count : 1) * sizeof *data);
  if (!data) abort();
  for (int64_t i = 0; i < count; ++i) data[i] = value;
  return data;
}

static kumiko_const_tensor input(const float* data, int64_t batch, int64_t rows, int64_t heads) {
  kumiko_const_tensor tensor = KUMIKO_TENSOR_INIT;
  tensor.data = data;
  const int64_t shape[4] = {batch, heads, rows, kDim},
                stride[4] = {heads * rows * kDim, rows * kDim, kDim, 1};
  memcpy(tensor.shape, shape, sizeof shape);
  memcpy(tensor.stride, stride, sizeof stride);
  return tensor;
}

static int all_are(const float* data, int64_t count, float value) {
  for (int64_t i = 0; i < count; ++i) {
    if (!(fabsf(data[i] - value) < 1e-5f)) return 0;
  }
  return 1;
}

static void test_sequences(const kumiko_context* context, kumiko_communicator* communicator) {
  int rank, ranks;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  int64_t rows = 0, intervals[2][2] = {{-1, -1}, {-1, -1}};
  const int64_t count =
      kumiko_rows_of_rank(KUMIKO_ROWS_ZIGZAG, kKeys, ranks, rank, 2, &intervals[0][0], &rows);
  EXPECT(count >= 0 && count <= 2 && rows >= 0);
  if (ranks == 1) EXPECT(count == 1 && rows == kKeys && intervals[0][0] == 0 && intervals[0][1] == kKeys);
  /* Two splits of four for each of two ranks: the outer ones, of which there is room for one, and the inner.
   */
  int64_t first[2][2] = {{-1, -1}, {-1, -1}}, all = 0;
  EXPECT(kumiko_rows_of_rank(KUMIKO_ROWS_ZIGZAG, 2048, 2, 0, 1, &first[0][0], &all) == 2 && all == 1024);
  EXPECT(first[0][0] == 0 && first[0][1] == 512 && first[1][0] == -1 && first[1][1] == -1);
  EXPECT(kumiko_rows_of_rank(KUMIKO_ROWS_CYCLIC, 2048, 2, 1, 2, &first[0][0], NULL) == 2);
  EXPECT(first[0][0] == 512 && first[0][1] == 1024 && first[1][0] == 1536 && first[1][1] == 2048);
  EXPECT(kumiko_rows_of_rank(KUMIKO_ROWS_CONTIGUOUS, 2048, 2, 1, 2, &first[0][0], NULL) == 1);
  EXPECT(first[0][0] == 1024 && first[0][1] == 2048);
  float *q = filled(rows * kHeads * kDim, 0.5f), *v = filled(rows * kHeads * kDim, 1.0f),
        *out = filled(rows * kHeads * kDim, -1.0f);
  kumiko_attention_args local = KUMIKO_ATTENTION_ARGS_INIT;
  local.q = local.k = input(q, 1, rows, kHeads);
  local.v = input(v, 1, rows, kHeads);
  local.out = kumiko_tensor_bhsd(out, 1, kHeads, rows, kDim);
  local.is_causal = 1;
  const int64_t lengths[2] = {kKeys, kKeys};
  kumiko_sequence_parallel_args args = KUMIKO_SEQUENCE_PARALLEL_ARGS_INIT;
  args.local = &local;
  args.lengths = lengths;
  args.num_sequences = 1;
  args.algorithm = KUMIKO_DISTRIBUTED_RING;
  const char* text = NULL;
  EXPECT(kumiko_sequence_parallel_explain(context, communicator, &args, &text) == KUMIKO_OK);
  EXPECT(text && strstr(text, "algorithm: ring, as asked for") && strstr(text, "predicted broadcast: "));
  EXPECT(kumiko_sequence_parallel_forward(context, communicator, &args) == KUMIKO_OK);
  EXPECT(all_are(out, rows * kHeads * kDim, 1.0f));
  args.algorithm = KUMIKO_DISTRIBUTED_AUTOMATIC;
  EXPECT(kumiko_sequence_parallel_explain(context, communicator, &args, &text) == KUMIKO_OK);
  EXPECT(text && strstr(text, ", the fastest by the model"));
  args.block_keys = 100;
  EXPECT(kumiko_sequence_parallel_forward(context, communicator, &args) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(strstr(kumiko_last_error(), "block_keys is 100"));
  args.block_keys = 0;
  args.num_sequences = -1;
  EXPECT(kumiko_sequence_parallel_forward(context, communicator, &args) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(strstr(kumiko_last_error(), "args->num_sequences is -1; expected 0..2147483647"));
  args.num_sequences = 1;
  args.lengths = NULL;
  EXPECT(kumiko_sequence_parallel_forward(context, communicator, &args) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(strstr(kumiko_last_error(), "args->lengths is NULL; expected two lengths for each sequence"));
  args.lengths = lengths;
  args.local = NULL;
  EXPECT(kumiko_sequence_parallel_forward(context, communicator, &args) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(strstr(kumiko_last_error(), "args->local is NULL; expected a kumiko_attention_args"));
  args.local = &local;
  EXPECT(kumiko_sequence_parallel_forward(context, communicator, NULL) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(strstr(kumiko_last_error(), "args is NULL; expected a kumiko_sequence_parallel_args"));
  EXPECT(kumiko_sequence_parallel_forward(NULL, communicator, &args) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(strstr(kumiko_last_error(), "context is NULL"));
  text = "as it was";
  EXPECT(kumiko_sequence_parallel_explain(NULL, communicator, &args, &text) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(kumiko_sequence_parallel_explain(context, NULL, &args, &text) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(kumiko_sequence_parallel_explain(context, communicator, NULL, &text) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(strcmp(text, "as it was") == 0);
  EXPECT(kumiko_sequence_parallel_explain(context, communicator, &args, NULL) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(strstr(kumiko_last_error(), "text is NULL"));
  /* An error of one rank's own conversion is that of all. */
  if (rank == ranks - 1) args.distribution = 9;
  EXPECT(kumiko_sequence_parallel_forward(context, communicator, &args) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(strstr(kumiko_last_error(), "args->distribution is 9; expected a KUMIKO_ROWS_ value, 0 to 2"));
  args.distribution = KUMIKO_ROWS_ZIGZAG;
  /* Its fields of `local` are named as those. */
  float lse = 0;
  local.softcap = -1;
  EXPECT(kumiko_sequence_parallel_forward(context, communicator, &args) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(strstr(kumiko_last_error(), "on rank 0: local->softcap is -1"));
  local.softcap = 0, local.lse = &lse, local.lse_stride[0] = -1;
  EXPECT(kumiko_sequence_parallel_forward(context, communicator, &args) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(strstr(kumiko_last_error(), "on rank 0: local->lse_stride[0] (batch) is -1"));
  local.lse = NULL, local.lse_stride[0] = 0, local.is_causal = 2;
  EXPECT(kumiko_sequence_parallel_forward(context, communicator, &args) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(strstr(kumiko_last_error(), "on rank 0: local->is_causal is 2; expected 0 or 1"));
  local.is_causal = 1, local.struct_size = 3;
  EXPECT(kumiko_sequence_parallel_forward(context, communicator, &args) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(strstr(kumiko_last_error(), "on rank 0: args->local->struct_size is 3; expected sizeof("));
  local.struct_size = sizeof local;
  args.algorithm = 2; /* states */
  EXPECT(kumiko_sequence_parallel_forward(context, communicator, &args) == KUMIKO_INVALID_ARGUMENT);
  args.struct_size = 7;
  EXPECT(kumiko_sequence_parallel_forward(context, communicator, &args) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(strstr(kumiko_last_error(), "args->struct_size is 7"));
  EXPECT(kumiko_sequence_parallel_forward(context, NULL, &args) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(strstr(kumiko_last_error(), "communicator is NULL"));
  /* A call without a status leaves the last error alone, unless it has one. */
  EXPECT(kumiko_rows_of_rank(KUMIKO_ROWS_ZIGZAG, kKeys, ranks, 0, 0, NULL, NULL) > 0);
  EXPECT(strstr(kumiko_last_error(), "communicator is NULL"));
  rows = 7;
  EXPECT(kumiko_rows_of_rank(3, kKeys, ranks, 0, 0, NULL, &rows) == 0 && rows == 0);
  EXPECT(strstr(kumiko_last_error(), "distribution is 3; expected a KUMIKO_ROWS_ value, 0 to 2"));
  free(q), free(v), free(out);
}

static void test_cache(const kumiko_context* context, kumiko_communicator* communicator) {
  float *q = filled(kHeads * kDim, 0.5f), *k = filled(kPages * 512 * kHeads * kDim, 0.5f),
        *v = filled(kPages * 512 * kHeads * kDim, 1.0f), *out = filled(kHeads * kDim, -1.0f);
  const int32_t length = kKeys, table[kPages] = {0, 1, 2};
  float lse[kHeads] = {0};
  kumiko_attention_args args = KUMIKO_ATTENTION_ARGS_INIT;
  args.q = input(q, 1, 1, kHeads);
  args.k = input(k, kPages, 512, kHeads);
  args.v = input(v, kPages, 512, kHeads);
  args.out = kumiko_tensor_bhsd(out, 1, kHeads, 1, kDim);
  args.lse = lse;
  args.seqused_k = &length;
  args.block_table = table;
  args.max_pages = kPages;
  EXPECT(kumiko_sharded_cache_forward(context, communicator, &args) == KUMIKO_OK);
  EXPECT(all_are(out, kHeads * kDim, 1.0f));
  EXPECT(all_are(lse, kHeads, logf(kKeys) + 0.5f)); /* scores are 4 x 0.5 x 0.5 / sqrt(4) */
  args.struct_size = 3;
  EXPECT(kumiko_sharded_cache_forward(context, communicator, &args) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(strstr(kumiko_last_error(), "on rank 0: args->struct_size is 3"));
  EXPECT(kumiko_sharded_cache_forward(context, communicator, NULL) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(strstr(kumiko_last_error(), "on rank 0: args is NULL"));
  EXPECT(kumiko_sharded_cache_forward(NULL, communicator, &args) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(kumiko_sharded_cache_forward(context, NULL, &args) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(strstr(kumiko_last_error(), "communicator is NULL"));
  free(q), free(k), free(v), free(out);
}

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  kumiko_context* context = NULL;
  kumiko_communicator* communicator = NULL;
  EXPECT(kumiko_context_create(NULL, &context) == KUMIKO_OK);
  EXPECT(kumiko_communicator_create(MPI_COMM_NULL, NULL, &communicator) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(strstr(kumiko_last_error(), "comm is MPI_COMM_NULL"));
  EXPECT(kumiko_communicator_create(MPI_COMM_WORLD, NULL, NULL) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(strstr(kumiko_last_error(), "communicator is NULL"));
  /* Each rate and time is that of its name. */
  const kumiko_machine plain = KUMIKO_MACHINE_INIT;
  const char* const names[] = {"latency_seconds is -1", "message_seconds is -1", "machine.flops is -1",
                               "machine.bandwidth is -1"};
  for (int field = 0; field < 4; ++field) {
    kumiko_machine wrong = plain;
    *(field == 0   ? &wrong.latency_seconds
      : field == 1 ? &wrong.message_seconds
      : field == 2 ? &wrong.flops
                   : &wrong.bandwidth) = -1;
    EXPECT(kumiko_communicator_create(MPI_COMM_WORLD, &wrong, &communicator) == KUMIKO_INVALID_ARGUMENT);
    EXPECT(strstr(kumiko_last_error(), names[field]));
  }
  kumiko_machine machine = plain;
  machine.link_bandwidth = -1;
  EXPECT(kumiko_communicator_create(MPI_COMM_WORLD, &machine, &communicator) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(strstr(kumiko_last_error(), "on rank 0: bandwidth is -1"));
  machine.link_bandwidth = 6.8e9;
  machine.overlap = 1.5;
  EXPECT(kumiko_communicator_create(MPI_COMM_WORLD, &machine, &communicator) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(strstr(kumiko_last_error(), "overlap is 1.5"));
  /* A struct that one rank alone has wrong is an error of all. */
  machine.overlap = 0.5;
  int rank, ranks;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  if (rank == ranks - 1) machine.struct_size = 5;
  EXPECT(kumiko_communicator_create(MPI_COMM_WORLD, &machine, &communicator) == KUMIKO_INVALID_ARGUMENT);
  EXPECT(strstr(kumiko_last_error(), "machine->struct_size is 5; expected "));
  machine.struct_size = sizeof machine;
  EXPECT(!communicator);
  machine.message_seconds = 1e-6;
  EXPECT(kumiko_communicator_create(MPI_COMM_WORLD, &machine, &communicator) == KUMIKO_OK);
  if (failures == 0) {
    test_sequences(context, communicator);
    test_cache(context, communicator);
  }
  kumiko_communicator_destroy(communicator);
  kumiko_communicator_destroy(NULL);
  kumiko_context_destroy(context);
  MPI_Finalize();
  if (failures == 0) printf("passed\n");
  return failures != 0;
}
