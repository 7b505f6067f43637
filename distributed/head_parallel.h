// SPDX-License-Identifier: Apache-2.0
// All-to-all from rows to heads, attention over whole sequences of some heads, and all-to-all back (Jacobs et
// al., DeepSpeed Ulysses, 2023).
#pragma once

#include <kumiko/attention.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "distributed/block_plan.h"
#include "distributed/distributed.h"
#include "distributed/sequence_call.h"
#include "distributed/transport.h"

namespace kumiko::distributed {

class HeadParallel {
 public:
  HeadParallel(const Context& context, const SequenceParallelArgs& args, Transport& transport);
  ~HeadParallel();
  HeadParallel(const HeadParallel&) = delete;
  /// Takes all memory and checks the call. Nothing is sent. Errors: unsupported (fewer KV heads than ranks,
  /// bias or mask).
  Status prepare();
  /// The outcome on this rank.
  Status run();

 private:
  /// The rows of one tensor: all heads of this rank's rows, and this rank's heads of all rows.
  struct Field {
    std::byte* local;                              ///< this rank's rows; read, or written on the way back
    std::int64_t batch_step, head_step, row_step;  ///< bytes
    std::byte* whole;                              ///< [heads of this rank][rows of all sequences]
    std::int64_t bytes;                            ///< of a row
    std::int64_t per_kv_head;
    bool is_query;
  };
  std::int64_t first_head(int rank) const { return args_.local.k.shape[1] * rank / transport_.size(); }
  std::int64_t heads_of(int rank) const { return first_head(rank + 1) - first_head(rank); }
  const std::vector<Interval>& rows_of(const Field& field, std::size_t b, int rank) const {
    return field.is_query ? plan_.query_rows(b, rank) : plan_.key_rows(b, rank);
  }
  std::int64_t message_bytes(const std::vector<Field>& fields, int rows_of_rank, int heads_of_rank) const;
  /// Copies between a message and the local or the whole tensors.
  template <bool kToMessage, bool kLocal>
  void copy(const std::vector<Field>& fields, int rows_of_rank, int heads_of_rank, std::byte* message) const;
  template <bool kBack>
  bool exchange(const std::vector<Field>& fields);
  std::byte* take(std::int64_t bytes);
  void add_field(const ConstTensor& tensor, bool is_query, std::byte* whole,
                 std::vector<Field>* fields) const;

  const Context& context_;
  const SequenceParallelArgs& args_;
  Transport& transport_;
  const BlockPlan plan_;
  std::vector<Field> in_, out_;
  std::vector<std::vector<std::byte>> tensors_;
  std::shared_ptr<std::vector<std::byte>> sent_ = std::make_shared<std::vector<std::byte>>(),
                                          received_ = std::make_shared<std::vector<std::byte>>();
  std::vector<std::int32_t> cu_seqlens_q_{0}, cu_seqlens_k_{0};
  AttentionArgs whole_;
};

}  // namespace kumiko::distributed
