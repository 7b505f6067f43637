// SPDX-License-Identifier: Apache-2.0
// What attention over several ranks would cost: pure functions of a problem, of what one rank computes and of
// the links between ranks. No MPI, no threads, nothing of the machine that it runs on.
#pragma once

#include <kumiko/key_parts.h>
#include <kumiko/status.h>

#include <cstdint>
#include <vector>

namespace kumiko::distributed {

/// Which rows a rank has. Of R ranks, rank r has
enum class Distribution {
  contiguous,  ///< the r-th of R equal parts;
  zigzag,      ///< parts r and 2R - 1 - r of 2R, which see equally many pairs where attention is causal;
  cyclic,      ///< pieces of cyclic_rows, r, r + R, r + 2R, ...: even in every block of keys, too.
};

enum class Algorithm {
  ring,           ///< Blocks of K and V in ascending order, from the owner to each next rank that needs them.
  broadcast,      ///< The same blocks, each sent down a binary tree of the ranks that need it.
  states,         ///< Keys stay; the states of their splits go to the ranks that merge them, in order.
  head_parallel,  ///< All-to-all to whole sequences of kv_heads / R heads, and back.
};
inline constexpr Algorithm kAlgorithms[] = {Algorithm::ring, Algorithm::broadcast, Algorithm::states,
                                            Algorithm::head_parallel};
KUMIKO_API const char* name(Algorithm algorithm);

/// The links, as one rank sees them, in both directions at once.
struct Link {
  double latency_seconds = 0;  ///< From the call that sends until the first byte is there.
  double bandwidth = 0;        ///< Bytes/s that a rank sends, and at the same time receives.
  double message_seconds = 0;  ///< Least time between two messages of one rank (LogP's gap g).
  double overlap = 1;  ///< Share of a transfer during which the rank computes at its full rate: 0 to 1.
};

/// What one rank computes. whole_seconds is the time of the whole problem on one rank:
/// Plan::predict(rates).seconds without start_seconds, or a time that was measured. A rank's part of it is
/// its share of all visible pairs of query and key.
struct Rank {
  double whole_seconds = 0;
  double start_seconds = 0;  ///< Once for each block of keys that a rank computes.
};

struct SequenceLengths {
  std::int64_t q_len = 0, kv_len = 0;  ///< Query i stands at position kv_len - q_len + i.
};

struct Work {
  std::vector<SequenceLengths> sequences;
  std::int64_t q_heads = 1, kv_heads = 1, head_dim = 1, v_head_dim = 1;
  std::int64_t element_bytes = 4;  ///< Of q, k, v and out. States are f32.
  bool is_causal = false;          ///< A query sees no key after its own position.
  std::int64_t window_left = -1;   ///< Keys before its position that a query sees; -1: all.
  std::int64_t window_right = -1;  ///< Keys after it, unless causal.
  Distribution distribution = Distribution::contiguous;
  std::int64_t cyclic_rows = 512;     ///< Rows of a piece of `cyclic`; a multiple of 512.
  std::int64_t block_keys = 4096;     ///< Most keys that travel as one block; a multiple of 512.
  std::int64_t blocks_in_flight = 2;  ///< Blocks that a rank has memory for, the one it computes among them.
};

/// Sets block_keys and blocks_in_flight to what attention over ranks uses where block_keys is 0: blocks of
/// 512 keys, so that the wait for the first one is short, and memory for as many as fit in 64 MiB, 2 to 16.
KUMIKO_API void choose_blocks(Work* work);

/// The parts add up to `seconds`. Each part is the time saved when one more cost is taken away: first latency
/// (of links, of messages, of starting a call for each block and not once), then the limit of bandwidth, then
/// imbalance (equal work, and no rank waits). What is left is computing.
struct Forecast {
  Algorithm algorithm = Algorithm::ring;
  bool is_possible = false;  ///< false: the algorithm does not apply (head_parallel: kv_heads < ranks); all 0
  double seconds = 0;
  double compute_seconds = 0;  ///< whole_seconds / ranks + start_seconds
  double link_seconds = 0;     ///< Waiting for bytes.
  double latency_seconds = 0;
  double imbalance_seconds = 0;  ///< Of parts, and of waiting for slower ranks as blocks come in order.
  std::int64_t sent_bytes = 0;   ///< By the rank that sends most.
  std::int64_t blocks = 0;       ///< That were simulated; `ring` and `broadcast` only.
  KUMIKO_API const char* bound() const;  ///< "compute", "link", "latency" or "imbalance": the largest part.
};

/// Errors: invalid_argument (the message names the field); `*forecast` is untouched then.
///
/// `ring` and `broadcast` are simulated block by block. A block is computed by a rank when it has arrived
/// there and the block before is computed, is received when one of blocks_in_flight buffers is free, and goes
/// only to ranks that see one of its keys, in pieces of 1 MiB that are passed on as soon as they are there.
/// Transfers of one rank in one direction come one after another.
/// A block lies within one owner's part, the bounds of parts being rounded to multiples of 512 keys. While
/// ranks x blocks exceeds 2^25, that multiple is doubled, until a sequence is one block.
///
/// `states`: the state of a row and split is v_head_dim + 2 floats. Rows are dealt to merging ranks, all of
/// them if there are so many rows; each gets its states from all ranks, and the results go to all in
/// log2(ranks) steps. `states` and `head_parallel` exchange after computing, directly or in log2(ranks) steps
/// (Bruck et al., IEEE TPDS 1997), whichever is faster.
///
/// One rank: whole_seconds + start_seconds, whatever the link. Left out: contention between links, the shape
/// of the network, the memory bandwidth that sending takes, and merging.
KUMIKO_API Status forecast(const Work& work, int ranks, const Rank& rank, const Link& link,
                           Algorithm algorithm, Forecast* forecast);

/// All algorithms in the order of kAlgorithms, and the index of the fastest. Errors as forecast().
struct Choice {
  std::vector<Forecast> forecasts;
  std::size_t best = 0;
};
KUMIKO_API Status choose(const Work& work, int ranks, const Rank& rank, const Link& link, Choice* choice);

/// Rank::whole_seconds without a plan: the longer of arithmetic at `flops` FLOP/s (for each visible pair and
/// query head 2 (head_dim + v_head_dim) FLOP, and 32 for the exponential) and of reading K and V once at
/// `bandwidth` bytes/s.
KUMIKO_API double whole_seconds(const Work& work, double flops, double bandwidth);

}  // namespace kumiko::distributed
