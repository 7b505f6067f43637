// SPDX-License-Identifier: Apache-2.0
#include <kumiko/cost_model.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "distributed/block_pipeline.h"
#include "distributed/check_model.h"
#include "distributed/rank_rows.h"

namespace kumiko::distributed {
namespace {

constexpr std::int64_t kMostSteps = std::int64_t{1} << 25;  // of a simulation, about a quarter of a second

/// The problem on its ranks.
struct Case {
  const Work& work;
  int ranks;
  const Rank& rank;
  double seconds_per_pair;
};

Link without_latency(Link link) {
  link.latency_seconds = link.message_seconds = 0;
  return link;
}

Link without_cost(Link link) {
  link = without_latency(link);
  link.bandwidth = std::numeric_limits<double>::infinity();
  return link;
}

/// The largest work that check_model() accepts sends more bytes than fit in 63 bits.
std::int64_t whole_bytes(double bytes) {
  return std::llround(std::min(bytes, 9e18));
}

int log2_up(int ranks) {
  return std::bit_width(static_cast<unsigned>(ranks - 1));
}

/// Splits a time into its parts: `all` is that with all costs, `no_latency` without latency, `no_link`
/// without any cost of the link. The last two have start_seconds once.
void split(const Case& on, double all, double no_latency, double no_link, Forecast* made) {
  made->is_possible = true;
  made->seconds = all;
  made->compute_seconds = on.rank.whole_seconds / on.ranks + on.rank.start_seconds;
  made->imbalance_seconds = std::max(no_link - made->compute_seconds, 0.0);
  made->link_seconds = std::max(no_latency - no_link, 0.0);
  made->latency_seconds = std::max(all - no_latency, 0.0);
}

/// The number of keys of which blocks' bounds are multiples: the least for which the simulation has at most
/// kMostSteps, if there is one.
std::int64_t block_unit(const Case& on) {
  for (std::int64_t unit = kKeysPerSplit;; unit *= 2) {
    std::int64_t blocks = 0, longest = 0;
    for (const SequenceLengths& sequence : on.work.sequences) {
      const std::int64_t units = (sequence.kv_len + unit - 1) / unit;
      blocks += std::min(units, part_count(on.work, sequence.kv_len, on.ranks) +
                                    sequence.kv_len / std::max(on.work.block_keys, unit));
      longest = std::max(longest, sequence.kv_len);
    }
    if (blocks * on.ranks <= kMostSteps || unit >= longest) return unit;
  }
}

class Travel {
 public:
  Travel(const Case& on, const Link& link, Algorithm algorithm)
      : on_(on),
        pipelines_{{on.ranks, on.work.blocks_in_flight, link, algorithm},
                   {on.ranks, on.work.blocks_in_flight, without_latency(link), algorithm},
                   {on.ranks, on.work.blocks_in_flight, without_cost(link), algorithm}} {}

  void run(Forecast* made) {
    const std::int64_t unit = block_unit(on_), most = std::max(on_.work.block_keys, unit);
    for (const SequenceLengths& sequence : on_.work.sequences) {
      set_rows(sequence);
      const std::int64_t parts = part_count(on_.work, sequence.kv_len, on_.ranks);
      for (std::int64_t part = 0; part < parts; ++part) {
        const Interval keys = part_of(on_.work, sequence.kv_len, unit, part, on_.ranks);
        for (std::int64_t at = keys.begin; at < keys.end; at += most)
          add(sequence, {at, std::min(at + most, keys.end)}, owner_of_part(on_.work, part, on_.ranks));
      }
    }
    const double start = on_.rank.start_seconds;
    split(on_, std::max(pipelines_[0].end(), start), pipelines_[1].end() + start, pipelines_[2].end() + start,
          made);
    made->sent_bytes = whole_bytes(pipelines_[0].most_sent());
    made->blocks = blocks_;
  }

 private:
  void set_rows(const SequenceLengths& sequence) {
    rows_.assign(static_cast<std::size_t>(on_.ranks), {});
    const std::int64_t parts = part_count(on_.work, sequence.q_len, on_.ranks);
    for (std::int64_t part = 0; part < parts; ++part) {
      const Interval rows = part_of(on_.work, sequence.q_len, 1, part, on_.ranks);
      if (rows.size() > 0)
        rows_[static_cast<std::size_t>(owner_of_part(on_.work, part, on_.ranks))].push_back(rows);
    }
  }

  void add(const SequenceLengths& sequence, Interval keys, int owner) {
    members_.clear();
    seconds_.clear();
    started_.clear();
    for (int i = 0; i < on_.ranks; ++i) {
      const int rank = (owner + i) % on_.ranks;
      std::int64_t pairs = 0;
      for (const Interval& rows : rows_[static_cast<std::size_t>(rank)])
        pairs += visible_pairs(on_.work, sequence, rows, keys);
      if (pairs == 0 && i > 0) continue;
      members_.push_back(rank);
      seconds_.push_back(static_cast<double>(pairs) * on_.seconds_per_pair);
      started_.push_back(seconds_.back() + (pairs > 0 ? on_.rank.start_seconds : 0));
    }
    const Work& work = on_.work;
    const double bytes = static_cast<double>(keys.size() * work.kv_heads) *
                         static_cast<double>((work.head_dim + work.v_head_dim) * work.element_bytes);
    pipelines_[1].add(members_, seconds_, bytes);
    pipelines_[2].add(members_, seconds_, bytes);
    pipelines_[0].add(members_, started_, bytes);
    ++blocks_;
  }

  const Case on_;
  BlockPipeline pipelines_[3];
  std::vector<std::vector<Interval>> rows_;  ///< Of each rank, in the current sequence.
  std::vector<int> members_;
  std::int64_t blocks_ = 0;
  std::vector<double> seconds_, started_;  ///< Of computing the block; and with the start of the call.
};

/// log2(ranks) messages, each after the one before has come.
double steps_seconds(const Link& link, int ranks) {
  return log2_up(ranks) * std::max(link.latency_seconds, link.message_seconds);
}

/// All to all, where the busiest rank has `bytes` in one direction, in `messages` messages: directly, or in
/// log2(ranks) steps (Bruck), in each of which half of what a rank has goes on.
double exchange_seconds(const Link& link, int ranks, double messages, double bytes, double mean_bytes) {
  const double direct =
      link.latency_seconds + std::max(messages - 1, 0.0) * link.message_seconds + bytes / link.bandwidth;
  const double stepped =
      steps_seconds(link, ranks) + std::max(bytes, mean_bytes * log2_up(ranks) / 2) / link.bandwidth;
  return std::min(direct, stepped);
}

void forecast_states(const Case& on, const Link& link, Forecast* made) {
  const Work& work = on.work;
  const auto ranks = static_cast<std::size_t>(on.ranks);
  std::vector<double> pairs(ranks), states(ranks);
  double rows = 0;
  for (const SequenceLengths& sequence : work.sequences) {
    rows += static_cast<double>(sequence.q_len * work.q_heads);
    const std::int64_t parts = part_count(work, sequence.kv_len, on.ranks);
    for (std::int64_t part = 0; part < parts; ++part) {
      const Interval keys = part_of(work, sequence.kv_len, kKeysPerSplit, part, on.ranks);
      if (keys.size() <= 0) continue;
      const auto owner = static_cast<std::size_t>(owner_of_part(work, part, on.ranks));
      pairs[owner] += static_cast<double>(visible_pairs(work, sequence, {0, sequence.q_len}, keys));
      for (std::int64_t at = keys.begin; at < keys.end; at += kKeysPerSplit)
        states[owner] += static_cast<double>(
            seeing_rows(work, sequence, {at, std::min(at + kKeysPerSplit, keys.end)}) * work.q_heads);
    }
  }
  const double state_bytes = static_cast<double>(work.v_head_dim + 2) * sizeof(float);
  double all_states = 0, most_states = 0, senders = 0;
  for (const double count : states) {
    all_states += count * state_bytes;
    most_states = std::max(most_states, count * state_bytes);
    senders += count > 0;
  }
  const double mergers = std::min<double>(on.ranks, std::max(rows, 1.0));
  // A merger has its own states already. Without another merger, the one with most states keeps them.
  const double sent = mergers < on.ranks ? most_states : most_states * (mergers - 1) / mergers;
  const double received = all_states / mergers * (senders > 0 ? (senders - 1) / senders : 0);
  const double messages = std::min<double>(std::max(senders, mergers), on.ranks - 1);
  const double results =
      rows * static_cast<double>(work.v_head_dim * work.element_bytes) * (on.ranks - 1) / on.ranks;
  const double compute =
      *std::max_element(pairs.begin(), pairs.end()) * on.seconds_per_pair + on.rank.start_seconds;
  const auto total = [&](const Link& with) {
    return compute +
           exchange_seconds(with, on.ranks, messages, std::max(sent, received), all_states / on.ranks) +
           steps_seconds(with, on.ranks) + results / with.bandwidth;
  };
  split(on, total(link), total(without_latency(link)), total(without_cost(link)), made);
  made->sent_bytes = whole_bytes(sent + results);
}

void forecast_head_parallel(const Case& on, const Link& link, Forecast* made) {
  const Work& work = on.work;
  if (work.kv_heads < on.ranks) return;
  double in = 0, out = 0;
  for (const SequenceLengths& sequence : work.sequences) {
    const auto queries = static_cast<double>(sequence.q_len * work.q_heads),
               keys = static_cast<double>(sequence.kv_len * work.kv_heads);
    in += queries * static_cast<double>(work.head_dim) +
          keys * static_cast<double>(work.head_dim + work.v_head_dim);
    out += queries * static_cast<double>(work.v_head_dim);
  }
  const auto heads = static_cast<double>((work.kv_heads + on.ranks - 1) / on.ranks);
  const double share = heads / static_cast<double>(work.kv_heads);
  const double moved = static_cast<double>(work.element_bytes) * (on.ranks - 1) / on.ranks;
  const double compute = on.rank.whole_seconds * share + on.rank.start_seconds;
  const auto total = [&](const Link& with) {
    return compute +
           exchange_seconds(with, on.ranks, on.ranks - 1, in * share * moved, in * moved / on.ranks) +
           exchange_seconds(with, on.ranks, on.ranks - 1, out * share * moved, out * moved / on.ranks);
  };
  split(on, total(link), total(without_latency(link)), total(without_cost(link)), made);
  made->sent_bytes = whole_bytes(std::max(in / on.ranks + out * share, 0.0) * moved);
}

}  // namespace

const char* name(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::ring:
      return "ring";
    case Algorithm::broadcast:
      return "broadcast";
    case Algorithm::states:
      return "states";
    case Algorithm::head_parallel:
      return "head_parallel";
  }
  return "?";
}

void choose_blocks(Work* work) {
  constexpr double kMostBytes = 64 << 20, kLeast = 2, kMost = 16;
  const double block = static_cast<double>(kKeysPerSplit * work->kv_heads) *
                       static_cast<double>((work->head_dim + work->v_head_dim) * work->element_bytes) *
                       static_cast<double>(work->sequences.size());
  work->block_keys = kKeysPerSplit;
  work->blocks_in_flight =
      static_cast<std::int64_t>(std::clamp(kMostBytes / std::max(block, 1.0), kLeast, kMost));
}

const char* Forecast::bound() const {
  const double most = std::max({compute_seconds, link_seconds, latency_seconds, imbalance_seconds});
  if (compute_seconds == most) return "compute";
  if (link_seconds == most) return "link";
  return latency_seconds == most ? "latency" : "imbalance";
}

Status forecast(const Work& work, int ranks, const Rank& rank, const Link& link, Algorithm algorithm,
                Forecast* forecast) {
  if (Status checked = check_model(work, ranks, rank, link, algorithm); !checked.ok()) return checked;
  const double pairs = all_pairs(work);
  const Case on{work, ranks, rank, pairs > 0 ? rank.whole_seconds / pairs : 0};
  Forecast made;
  made.algorithm = algorithm;
  if (ranks == 1) {
    const double seconds = rank.whole_seconds + rank.start_seconds;
    split(on, seconds, seconds, seconds, &made);
  } else if (algorithm == Algorithm::states) {
    forecast_states(on, link, &made);
  } else if (algorithm == Algorithm::head_parallel) {
    forecast_head_parallel(on, link, &made);
  } else {
    Travel(on, link, algorithm).run(&made);
  }
  *forecast = made;
  return {};
}

Status choose(const Work& work, int ranks, const Rank& rank, const Link& link, Choice* choice) {
  Choice made;
  for (const Algorithm algorithm : kAlgorithms) {
    Forecast one;
    if (Status status = forecast(work, ranks, rank, link, algorithm, &one); !status.ok()) return status;
    made.forecasts.push_back(one);
  }
  for (std::size_t i = 1; i < made.forecasts.size(); ++i) {
    if (made.forecasts[i].is_possible && made.forecasts[i].seconds < made.forecasts[made.best].seconds)
      made.best = i;
  }
  *choice = std::move(made);
  return {};
}

double whole_seconds(const Work& work, double flops, double bandwidth) {
  double keys = 0;
  for (const SequenceLengths& sequence : work.sequences) keys += static_cast<double>(sequence.kv_len);
  const auto dims = static_cast<double>(work.head_dim + work.v_head_dim);
  return std::max(all_pairs(work) * static_cast<double>(work.q_heads) * (2 * dims + 32) / flops,
                  keys * static_cast<double>(work.kv_heads * work.element_bytes) * dims / bandwidth);
}

}  // namespace kumiko::distributed
