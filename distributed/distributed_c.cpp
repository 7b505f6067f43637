// SPDX-License-Identifier: Apache-2.0
#include "distributed/distributed_c.h"

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "distributed/c_abi.h"
#include "distributed/communicator.h"
#include "distributed/distributed.h"

struct kumiko_communicator {
  kumiko::distributed::Communicator communicator;
  std::string explanation;
};

namespace kumiko::distributed {
namespace {

using c_abi::null_argument;

static_assert(KUMIKO_ROWS_CONTIGUOUS == static_cast<int>(Distribution::contiguous));
static_assert(KUMIKO_ROWS_ZIGZAG == static_cast<int>(Distribution::zigzag));
static_assert(KUMIKO_ROWS_CYCLIC == static_cast<int>(Distribution::cyclic));
static_assert(KUMIKO_DISTRIBUTED_RING == static_cast<int>(Algorithm::ring));
static_assert(KUMIKO_DISTRIBUTED_BROADCAST == static_cast<int>(Algorithm::broadcast));
static_assert(KUMIKO_DISTRIBUTED_HEAD_PARALLEL == static_cast<int>(Algorithm::head_parallel));

Status check_size(const char* name, std::size_t given, std::size_t expected) {
  if (given == expected) return {};
  return {Code::invalid_argument, std::string(name) + "->struct_size is " + std::to_string(given) +
                                      "; expected " + std::to_string(expected) +
                                      "; start from the _INIT macro"};
}

/// Lengths are kept in `lengths`, which `to` points to.
Status convert(const kumiko_sequence_parallel_args* from, std::vector<SequenceLengths>* lengths,
               SequenceParallelArgs* to) {
  if (!from) return null_argument("args", "a kumiko_sequence_parallel_args");
  if (Status s = check_size("args", from->struct_size, sizeof *from); !s.ok()) return s;
  if (Status s = c_abi::convert_attention(from->local, "args->local", "local.", &to->local); !s.ok())
    return s;
  if (from->num_sequences < 0 || from->num_sequences > INT32_MAX)
    return c_abi::bad_value("args->num_sequences", from->num_sequences, "0..2147483647");
  if (from->num_sequences > 0 && !from->lengths)
    return null_argument("args->lengths", "two lengths for each sequence");
  for (int64_t b = 0; b < from->num_sequences; ++b)
    lengths->push_back({from->lengths[2 * b], from->lengths[2 * b + 1]});
  to->sequences = *lengths;
  if (from->distribution < KUMIKO_ROWS_CONTIGUOUS || from->distribution > KUMIKO_ROWS_CYCLIC)
    return c_abi::bad_value("args->distribution", from->distribution, "a KUMIKO_ROWS_ value, 0 to 2");
  to->distribution = static_cast<Distribution>(from->distribution);
  to->is_automatic = from->algorithm == KUMIKO_DISTRIBUTED_AUTOMATIC;
  if (!to->is_automatic) {
    if (from->algorithm < KUMIKO_DISTRIBUTED_RING || from->algorithm > KUMIKO_DISTRIBUTED_HEAD_PARALLEL)
      return c_abi::bad_value("args->algorithm", from->algorithm, "a KUMIKO_DISTRIBUTED_ value");
    to->algorithm = static_cast<Algorithm>(from->algorithm);
  }
  to->block_keys = from->block_keys;
  return {};
}

Status convert(const kumiko_machine* from, Machine* to) {
  if (!from) return {};
  if (Status s = check_size("machine", from->struct_size, sizeof *from); !s.ok()) return s;
  if (from->latency_seconds != 0) to->link.latency_seconds = from->latency_seconds;
  if (from->link_bandwidth != 0) to->link.bandwidth = from->link_bandwidth;
  if (from->message_seconds != 0) to->link.message_seconds = from->message_seconds;
  to->link.overlap = from->overlap;
  to->flops = from->flops;
  to->bandwidth = from->bandwidth;
  return {};
}

Status check_handles(const kumiko_context* context, const kumiko_communicator* communicator) {
  if (!context) return null_argument("context", "a kumiko_context");
  if (!communicator) return null_argument("communicator", "a kumiko_communicator");
  return {};
}

}  // namespace
}  // namespace kumiko::distributed

using namespace kumiko::distributed;
using kumiko::Status;
using kumiko::c_abi::context_of;
using kumiko::c_abi::null_argument;

namespace {

/// Runs `body`; its status becomes the result and this thread's last error.
template <class Body>
kumiko_status reported(Body&& body) noexcept {
  const Status status = kumiko::distributed::guarded(body);
  return kumiko::c_abi::report(status.code(), status.message().c_str());
}

}  // namespace

extern "C" {

kumiko_status kumiko_communicator_create(MPI_Comm comm, const kumiko_machine* machine,
                                         kumiko_communicator** communicator) {
  return reported([&]() -> Status {
    if (!communicator) return null_argument("communicator", "where to put the handle");
    Machine known;
    std::unique_ptr<kumiko_communicator> handle;
    // The other ranks are told of this one's error.
    const Status mine = guarded([&]() -> Status {
      handle = std::make_unique<kumiko_communicator>();
      return convert(machine, &known);
    });
    Communicator made;
    if (Status s = Access::create(comm, known, mine, &made); !s.ok()) return s;
    handle->communicator = std::move(made);
    *communicator = handle.release();
    return {};
  });
}

void kumiko_communicator_destroy(kumiko_communicator* communicator) {
  delete communicator;
}

int64_t kumiko_rows_of_rank(int32_t distribution, int64_t length, int ranks, int rank, int64_t capacity,
                            int64_t* intervals, int64_t* rows) {
  int64_t count = 0, all = 0;
  const Status status = kumiko::distributed::guarded([&]() -> Status {
    if (distribution < KUMIKO_ROWS_CONTIGUOUS || distribution > KUMIKO_ROWS_CYCLIC)
      return kumiko::c_abi::bad_value("distribution", distribution, "a KUMIKO_ROWS_ value, 0 to 2");
    for (const Rows& part : rows_of_rank(static_cast<Distribution>(distribution), length, ranks, rank)) {
      if (count < capacity && intervals)
        intervals[2 * count] = part.begin, intervals[2 * count + 1] = part.end;
      all += part.end - part.begin;
      ++count;
    }
    return {};
  });
  if (rows) *rows = all;
  if (status.ok()) return count;
  kumiko::c_abi::report(status.code(), status.message().c_str());
  return 0;
}

kumiko_status kumiko_sequence_parallel_forward(const kumiko_context* context,
                                               kumiko_communicator* communicator,
                                               const kumiko_sequence_parallel_args* args) {
  return reported([&]() -> Status {
    if (Status s = check_handles(context, communicator); !s.ok()) return s;
    std::vector<SequenceLengths> lengths;
    SequenceParallelArgs converted;
    // The other ranks are told of this one's error.
    if (Status s = convert(args, &lengths, &converted); !s.ok()) return refuse(communicator->communicator, s);
    return attention_forward(context_of(*context), communicator->communicator, converted);
  });
}

kumiko_status kumiko_sharded_cache_forward(const kumiko_context* context, kumiko_communicator* communicator,
                                           const kumiko_attention_args* args) {
  return reported([&]() -> Status {
    if (Status s = check_handles(context, communicator); !s.ok()) return s;
    kumiko::AttentionArgs converted;
    if (Status s = kumiko::c_abi::convert_args(args, &converted); !s.ok())
      return refuse(communicator->communicator, s);
    return attention_forward(context_of(*context), communicator->communicator, converted);
  });
}

kumiko_status kumiko_sequence_parallel_explain(const kumiko_context* context,
                                               kumiko_communicator* communicator,
                                               const kumiko_sequence_parallel_args* args, const char** text) {
  return reported([&]() -> Status {
    if (Status s = check_handles(context, communicator); !s.ok()) return s;
    if (!text) return null_argument("text", "where to put the pointer to the text");
    std::vector<SequenceLengths> lengths;
    SequenceParallelArgs converted;
    if (Status s = convert(args, &lengths, &converted); !s.ok()) return s;
    communicator->explanation = explain(context_of(*context), communicator->communicator, converted);
    *text = communicator->explanation.c_str();
    return {};
  });
}

}  // extern "C"
