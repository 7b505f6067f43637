// SPDX-License-Identifier: Apache-2.0
// Attention over the ranks of an MPI communicator, for sequences that outgrow one machine. The result has the
// bits of attention_forward() on one machine, for any number of ranks, any placement and every algorithm.
//
// Every rank has a Context of its own, whose threads compute; MPI only carries keys, values and states. All
// calls here but rows_of_rank() and explain() are collective: every rank of the communicator makes them, in
// the same order. docs/distributed.md says what travels when, and what a failure means.
#pragma once

#include <kumiko/attention.h>
#include <kumiko/cost_model.h>
#include <mpi.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace kumiko::distributed {

/// What is known of the machine, for the choice of an algorithm. No result depends on it.
struct Machine {
  Link link{2e-6, 10e9, 1e-6, 1.0};  ///< Default: between processes of one machine, or InfiniBand.
  double flops = 0;                  ///< FLOP/s of one rank; 0: 50 GFLOP/s a thread.
  double bandwidth = 0;              ///< Bytes/s that one rank reads; 0: 10 GB/s a thread.
};

/// A communicator of the library's own: a duplicate of the user's, so that its messages meet no others.
/// Move-only. One call at a time: calls of other threads on the same communicator are refused, and on others
/// they need MPI_THREAD_MULTIPLE (docs/distributed.md). Must be destroyed before MPI_Finalize, and below that
/// MPI_THREAD_MULTIPLE while no thread is in a call.
class KUMIKO_API Communicator {
 public:
  Communicator();
  Communicator(Communicator&& other) noexcept;
  Communicator& operator=(Communicator&& other) noexcept;
  ~Communicator();

  /// Collective over `comm`, which must be an intracommunicator; machine.link must be the same on all ranks.
  /// Errors: invalid_argument, communication and out_of_memory, the same on all; and before `comm` is used
  /// invalid_argument (MPI is not initialized or is finalized, `comm` or `made` is null), unsupported (this
  /// thread may not call MPI, or not while another is in a call) and out_of_memory, after which the other
  /// ranks wait in MPI_Comm_dup. `*made` is untouched on error.
  static Status create(MPI_Comm comm, const Machine& machine, Communicator* made);
  explicit operator bool() const { return impl_ != nullptr; }
  int rank() const;
  int size() const;

  struct Impl;

 private:
  friend struct Access;
  std::unique_ptr<Impl> impl_;
};

/// The rows, of a sequence of `length` queries or keys, that rank `rank` of `ranks` has, in ascending order.
/// Parts are whole splits of 512 rows, so that the query, the key and the value of a token lie on one rank.
/// Empty if an argument is out of range.
struct Rows {
  std::int64_t begin = 0, end = 0;
};
KUMIKO_API std::vector<Rows> rows_of_rank(Distribution distribution, std::int64_t length, int ranks,
                                          int rank);

/// Sequences whose queries, keys and values are spread over the ranks: prefill, and any other call with many
/// queries.
struct SequenceParallelArgs {
  /// The whole call, except that q, q_scale, out, lse and row_max have this rank's query rows (rows_of_rank()
  /// of q_len), and k, v and k_scale its key rows (rows_of_rank() of kv_len), in ascending order. Either
  /// [num_sequences, heads, rows, dim], where all sequences are equally long, or packed as [1, heads, rows of
  /// all sequences, dim].
  /// bias and mask have this rank's rows and a column for each key of the longest sequence. Lengths are those
  /// of `sequences`: seqused_k, cu_seqlens_q, cu_seqlens_k, num_sequences, block_table and kv_domains stay
  /// unset, and so do tree_mask and bsr_indptr, which are unsupported here.
  AttentionArgs local;
  std::span<const SequenceLengths> sequences;  ///< Of all ranks together, the same on each.
  Distribution distribution = Distribution::zigzag;
  /// is_automatic: of ring, broadcast and head_parallel the one that choose() finds fastest. Otherwise
  /// `algorithm`, which is one of these.
  bool is_automatic = true;
  Algorithm algorithm = Algorithm::ring;
  /// Most keys of a sequence that travel as one block, a multiple of 512, with memory for two blocks; 0: 512,
  /// with memory for 2 to 16 blocks, as many as fit in 64 MiB.
  std::int64_t block_keys = 0;
};
/// Errors: those of kumiko::attention_forward(), and communication; the same on all ranks. An error that is
/// found before anything is sent leaves outputs untouched; after `communication`, or out_of_memory while
/// computing, they may be written in part. If a rank runs out of memory while blocks are sent, the
/// communicator may be of no more use, as after a failure of MPI; later calls then say so.
KUMIKO_API Status attention_forward(const Context& context, const Communicator& communicator,
                                    const SequenceParallelArgs& args);

/// Queries that all ranks have, over a cache whose keys are spread over the ranks: decode. Split s of each
/// sequence, its keys [512 s, 512 s + 512), lies on rank s modulo size(). `args` is the whole call, the same
/// on each rank except for pointers: k and v are this rank's pages, and block_table has entries for this
/// rank's keys; others are not read. A cache without pages can be passed as pages of 512 keys. out, lse and
/// row_max are written on all ranks. Errors: as above, and unsupported (no block_table; window_sink_tokens
/// with a window). Outputs are written if all ranks succeed, and else untouched.
KUMIKO_API Status attention_forward(const Context& context, const Communicator& communicator,
                                    const AttentionArgs& args);

/// Takes part in a call as a rank that has found an error in its own arguments: returns `error`, as all other
/// ranks do, unless a lower rank has one. For wrappers that convert arguments.
KUMIKO_API Status refuse(const Communicator& communicator, const Status& error);

/// What the calls above would do: ranks, distribution, blocks, algorithm, and the time that each algorithm
/// would take by the cost model, with the threads of this rank's context. Not collective. If `args` are not
/// valid: the message of the error.
KUMIKO_API std::string explain(const Context& context, const Communicator& communicator,
                               const SequenceParallelArgs& args);

}  // namespace kumiko::distributed
