/* SPDX-License-Identifier: Apache-2.0 */
/* Attention over MPI ranks, for C99 and for every language that can call C. The semantics are those of
 * <kumiko/distributed.h>, the conventions those of <kumiko/attention_c.h>. */
#ifndef KUMIKO_DISTRIBUTED_C_H
#define KUMIKO_DISTRIBUTED_C_H

#include <kumiko/attention_c.h>
#include <mpi.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Which rows of a sequence a rank has (kumiko::distributed::Distribution). */
enum { KUMIKO_ROWS_CONTIGUOUS = 0, KUMIKO_ROWS_ZIGZAG = 1, KUMIKO_ROWS_CYCLIC = 2 };

/* What travels (kumiko::distributed::Algorithm). */
enum {
  KUMIKO_DISTRIBUTED_AUTOMATIC = -1, /* the fastest by the cost model */
  KUMIKO_DISTRIBUTED_RING = 0,
  KUMIKO_DISTRIBUTED_BROADCAST = 1,
  KUMIKO_DISTRIBUTED_HEAD_PARALLEL = 3
};

/* A duplicate of the user's communicator. It serves one call at a time. */
typedef struct kumiko_communicator kumiko_communicator;

/* The machine, for the choice of an algorithm. 0 is each field's default, but for overlap. */
typedef struct kumiko_machine {
  size_t struct_size;
  double latency_seconds; /* of a link: from the call that sends until the first byte is there */
  double link_bandwidth;  /* bytes/s that a rank sends, and at the same time receives */
  double flops;           /* FLOP/s of one rank */
  double bandwidth;       /* bytes/s that one rank reads */
  double message_seconds; /* least time between two messages of one rank */
  double overlap;         /* share of a transfer during which the rank computes at its full rate: 0 to 1 */
} kumiko_machine;
#define KUMIKO_MACHINE_INIT \
  { sizeof(kumiko_machine), 0, 0, 0, 0, 0, 1 }

/* Collective over `comm`. `machine` may be NULL. `*communicator` is untouched on error. On a rank where
 * `communicator` is NULL the others wait, as kumiko::distributed::Communicator::create() says. */
KUMIKO_C_API kumiko_status kumiko_communicator_create(MPI_Comm comm, const kumiko_machine* machine,
                                                      kumiko_communicator** communicator);
/* NULL is accepted and does nothing. Must be called before MPI_Finalize. */
KUMIKO_C_API void kumiko_communicator_destroy(kumiko_communicator* communicator);

/* Queries, keys and values spread over the ranks (kumiko::distributed::SequenceParallelArgs). */
typedef struct kumiko_sequence_parallel_args {
  size_t struct_size;
  const kumiko_attention_args* local; /* the call of all, with this rank's rows */
  const int64_t* lengths;             /* [num_sequences][2]: q_len, kv_len, of all ranks together */
  int64_t num_sequences;
  int32_t distribution; /* KUMIKO_ROWS_* */
  int32_t algorithm;    /* KUMIKO_DISTRIBUTED_* */
  int64_t block_keys; /* most keys of a sequence that travel as one block, a multiple of 512; 0: automatic */
} kumiko_sequence_parallel_args;
#define KUMIKO_SEQUENCE_PARALLEL_ARGS_INIT                                                                  \
  {                                                                                                         \
    sizeof(kumiko_sequence_parallel_args), NULL, NULL, 0, KUMIKO_ROWS_ZIGZAG, KUMIKO_DISTRIBUTED_AUTOMATIC, \
        0                                                                                                   \
  }

/* How many rows of a sequence of `length` a rank has, and which: at most `capacity` intervals [begin, end) go
 * into `intervals`, [capacity][2], and the number of rows into `rows`. Returns the number of intervals, which
 * may be more than `capacity`; 0 for an invalid `distribution`, and then kumiko_last_error() says so. Not
 * collective; `intervals` and `rows` may be NULL. */
KUMIKO_C_API int64_t kumiko_rows_of_rank(int32_t distribution, int64_t length, int ranks, int rank,
                                         int64_t capacity, int64_t* intervals, int64_t* rows);

/* Collective. */
KUMIKO_C_API kumiko_status kumiko_sequence_parallel_forward(const kumiko_context* context,
                                                            kumiko_communicator* communicator,
                                                            const kumiko_sequence_parallel_args* args);
/* Queries that every rank has, over a cache whose splits of 512 keys are spread over the ranks. Collective.
 */
KUMIKO_C_API kumiko_status kumiko_sharded_cache_forward(const kumiko_context* context,
                                                        kumiko_communicator* communicator,
                                                        const kumiko_attention_args* args);
/* What kumiko_sequence_parallel_forward would do. The text is valid until the next such call with this
 * communicator, or until it is destroyed. Not collective. */
KUMIKO_C_API kumiko_status kumiko_sequence_parallel_explain(const kumiko_context* context,
                                                            kumiko_communicator* communicator,
                                                            const kumiko_sequence_parallel_args* args,
                                                            const char** text);

#ifdef __cplusplus
}
#endif

#endif /* KUMIKO_DISTRIBUTED_C_H */
