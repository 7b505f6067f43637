// SPDX-License-Identifier: Apache-2.0
#include "distributed/distributed.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "distributed/agreement.h"
#include "distributed/communicator.h"
#include "distributed/head_parallel.h"
#include "distributed/local_tensors.h"
#include "distributed/sequence_call.h"
#include "distributed/sharded_cache.h"
#include "distributed/travelling_blocks.h"

namespace kumiko::distributed {
namespace {

constexpr double kThreadFlops = 50e9, kThreadBandwidth = 10e9, kStartSeconds = 20e-6;

struct Speed {
  double flops, bandwidth;
};

Speed speed_of(const Context& context, const Machine& machine) {
  const int threads = context.num_threads();
  return {machine.flops > 0 ? machine.flops : kThreadFlops * threads,
          machine.bandwidth > 0 ? machine.bandwidth : kThreadBandwidth * threads};
}

Status check_machine(const Machine& machine) {
  for (const auto& [field, value] :
       {std::pair{"machine.flops", machine.flops}, std::pair{"machine.bandwidth", machine.bandwidth}}) {
    if (!(value >= 0))
      return {Code::invalid_argument,
              std::string(field) + " is " + std::to_string(value) + "; expected 0 or more"};
  }
  Forecast unused;
  return forecast(Work{}, 1, Rank{}, machine.link, Algorithm::ring, &unused);
}

/// The fastest of the algorithms that move queries or keys.
Status choose_algorithm(const Speed& speed, const Link& link, const SequenceParallelArgs& args, int ranks,
                        Algorithm* best, Choice* choice) {
  const Work work = work_of(args);
  const Rank rank{whole_seconds(work, speed.flops, speed.bandwidth), kStartSeconds};
  if (Status s = choose(work, ranks, rank, link, choice); !s.ok()) return s;
  const Forecast* least = nullptr;
  for (const Forecast& forecast : choice->forecasts) {
    if (forecast.algorithm == Algorithm::states || !forecast.is_possible) continue;
    if (forecast.algorithm == Algorithm::head_parallel && (args.local.bias.data || args.local.mask.data))
      continue;
    if (!least || forecast.seconds < least->seconds) least = &forecast;
  }
  *best = least->algorithm;
  return {};
}

Status check_context(const Context& context) {
  if (context) return {};
  return {Code::invalid_argument, "context is empty; expected one made by Context::create()"};
}

void add_sequences(const SequenceParallelArgs& args, Digest* digest) {
  digest->add_value("sequences.size()", args.sequences.size());
  digest->add("sequences", args.sequences.data(), args.sequences.size_bytes());
  digest->add(args.local, std::ssize(args.sequences), false, "local.");
  digest->add_value("distribution", args.distribution);
  digest->add_value("block_keys", args.block_keys);
}

}  // namespace

Communicator::Communicator() = default;
Communicator::Communicator(Communicator&& other) noexcept = default;
Communicator& Communicator::operator=(Communicator&& other) noexcept = default;
Communicator::~Communicator() = default;

Status Communicator::create(MPI_Comm comm, const Machine& machine, Communicator* made) {
  return Access::create(comm, machine, {}, made);
}

Status Access::create(MPI_Comm comm, const Machine& machine, const Status& error, Communicator* made) {
  return guarded([&]() -> Status {
    if (!made) return {Code::invalid_argument, "made is null; expected a Communicator to fill"};
    std::unique_ptr<Transport> transport;
    if (Status s = Transport::create(comm, &transport); !s.ok()) return s;
    // As in a call, an error of one rank is that of all.
    const Transport::Turn turn(*transport);
    if (!turn.status().ok()) return turn.status();
    std::unique_ptr<Communicator::Impl> impl;
    Digest digest;
    const Status mine = guarded([&]() -> Status {
      if (!error.ok()) return error;
      impl = std::make_unique<Communicator::Impl>();
      impl->machine = machine;
      digest.add_value("machine.link", machine.link);
      return check_machine(machine);
    });
    if (Status s = agree(*transport, digest, mine); !s.ok()) return s;
    impl->transport = std::move(transport);
    made->impl_ = std::move(impl);
    return {};
  });
}

int Communicator::rank() const {
  return impl_ ? impl_->transport->rank() : -1;
}
int Communicator::size() const {
  return impl_ ? impl_->transport->size() : 0;
}

Status check_communicator(const Communicator& communicator) {
  if (communicator) return {};
  return {Code::invalid_argument, "communicator is empty; expected one made by Communicator::create()"};
}

std::vector<Rows> rows_of_rank(Distribution distribution, std::int64_t length, int ranks, int rank) {
  std::vector<Rows> rows;
  if (length <= 0 || ranks < 1 || rank < 0 || rank >= ranks || distribution > Distribution::cyclic)
    return rows;
  Work work;
  work.distribution = distribution;
  for (const Interval& part : rows_of(work, length, ranks, rank)) rows.push_back({part.begin, part.end});
  return rows;
}

Status attention_forward(const Context& context, const Communicator& communicator,
                         const SequenceParallelArgs& args) {
  return guarded([&]() -> Status {
    if (Status s = check_communicator(communicator); !s.ok()) return s;
    Communicator::Impl& impl = Access::of(communicator);
    Transport& transport = *impl.transport;
    Workspace& workspace = impl.workspace;
    const Transport::Turn turn(transport);
    if (!turn.status().ok()) return turn.status();
    // From here on every rank takes part in the agreement, whatever it has found.
    std::unique_ptr<TravellingBlocks> blocks;
    std::unique_ptr<HeadParallel> heads;
    Digest digest;
    // The first agreement is on the call itself and on the speed of the slowest rank, so that all ranks
    // choose the same algorithm though their contexts may have different numbers of threads. refuse() takes
    // part in this agreement.
    Digest speeds;
    Status mine = guarded([&]() -> Status {
      if (Status s = check_context(context); !s.ok()) return s;
      const Speed own = speed_of(context, impl.machine);
      speeds.least = {own.flops, own.bandwidth};
      if (Status s = check_sequence_parallel(args, transport.size(), transport.rank()); !s.ok()) return s;
      return of_local(validate_tensors(args.local));
    });
    Agreement on_speed(transport, speeds, mine);
    if (Status s = on_speed.finish(); !s.ok()) return s;
    const Speed speed{on_speed.least(0), on_speed.least(1)};
    mine = guarded([&]() -> Status {
      Algorithm algorithm = args.algorithm;
      if (args.is_automatic) {
        Choice choice;
        if (Status s =
                choose_algorithm(speed, impl.machine.link, args, transport.size(), &algorithm, &choice);
            !s.ok())
          return s;
      }
      if (algorithm == Algorithm::head_parallel) {
        heads = std::make_unique<HeadParallel>(context, args, transport);
        if (Status s = heads->prepare(); !s.ok()) return s;
      } else {
        blocks = std::make_unique<TravellingBlocks>(context, args, transport, workspace, algorithm);
        if (Status s = blocks->prepare(); !s.ok()) return s;
      }
      add_sequences(args, &digest);
      digest.add_value("algorithm", algorithm);
      return {};
    });
    if (Status s = agree(transport, digest, mine); !s.ok()) return s;
    mine = guarded_for_all(transport, [&] { return heads ? heads->run() : blocks->run(); });
    if (transport.failed()) return transport.status();
    return agree(transport, {}, mine);
  });
}

Status attention_forward(const Context& context, const Communicator& communicator,
                         const AttentionArgs& args) {
  return guarded([&]() -> Status {
    if (Status s = check_communicator(communicator); !s.ok()) return s;
    Transport& transport = *Access::of(communicator).transport;
    const Transport::Turn turn(transport);
    if (!turn.status().ok()) return turn.status();
    std::unique_ptr<ShardedCache> cache;
    Digest digest;
    const Status mine = guarded([&]() -> Status {
      if (Status s = check_context(context); !s.ok()) return s;
      cache = std::make_unique<ShardedCache>(context, args, transport);
      if (Status s = cache->prepare(); !s.ok()) return s;
      digest.add(args, cache->sequences(), true);
      return {};
    });
    // The agreement is on its way while this rank computes, which saves a latency in each step of a decode.
    Agreement agreement(transport, digest, mine);
    const Status computed = mine.ok() ? cache->compute() : Status();
    if (Status s = agreement.finish(); !s.ok()) return s;
    return guarded_for_all(transport, [&] { return cache->merge_all(computed); });
  });
}

Status refuse(const Communicator& communicator, const Status& error) {
  return guarded([&]() -> Status {
    if (Status s = check_communicator(communicator); !s.ok()) return s;
    if (error.ok()) return {Code::invalid_argument, "error is ok; expected an error"};
    Transport& transport = *Access::of(communicator).transport;
    const Transport::Turn turn(transport);
    if (!turn.status().ok()) return turn.status();
    return agree(transport, {}, error);
  });
}

std::string explain(const Context& context, const Communicator& communicator,
                    const SequenceParallelArgs& args) {
  std::string text;
  const Status status = guarded([&]() -> Status {
    if (Status s = check_communicator(communicator); !s.ok()) return s;
    if (Status s = check_context(context); !s.ok()) return s;
    const Communicator::Impl& impl = Access::of(communicator);
    const int ranks = impl.transport->size();
    if (Status s = check_sequence_parallel(args, ranks, impl.transport->rank()); !s.ok()) return s;
    const Work work = work_of(args);
    Algorithm algorithm = args.algorithm;
    Choice choice;
    Algorithm best{};
    const Speed speed = speed_of(context, impl.machine);
    if (Status s = choose_algorithm(speed, impl.machine.link, args, ranks, &best, &choice); !s.ok()) return s;
    if (args.is_automatic) algorithm = best;
    const BlockPlan plan(work, reach_of(args.local), ranks);
    static constexpr const char* kNames[] = {"contiguous", "zigzag", "cyclic"};
    text = "ranks: " + std::to_string(ranks) + ", rows " + kNames[static_cast<int>(args.distribution)] + "\n";
    text += std::string("algorithm: ") + name(algorithm) +
            (args.is_automatic ? ", the fastest by the model" : ", as asked for") + "\n";
    if (algorithm != Algorithm::head_parallel) {
      const PageLayout page(args.local);
      text += "blocks: " + std::to_string(plan.steps().size()) + " of up to " +
              std::to_string(work.block_keys) + " keys, memory for " + std::to_string(work.blocks_in_flight) +
              ", " + std::to_string(work.blocks_in_flight * plan.most_pages() * page.size()) + " bytes\n";
    }
    for (const Forecast& forecast : choice.forecasts) {
      if (forecast.algorithm == Algorithm::states) continue;
      text += std::string("predicted ") + name(forecast.algorithm) + ": ";
      text += forecast.is_possible
                  ? std::to_string(forecast.seconds * 1e3) + " ms, bound by " + forecast.bound()
                  : "not possible, fewer KV heads than ranks";
      text += "\n";
    }
    return {};
  });
  return status.ok() ? text : status.message() + "\n";
}

}  // namespace kumiko::distributed
