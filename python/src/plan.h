// SPDX-License-Identifier: Apache-2.0
// A plan, and what of the planned call its runs do not bring along.
#pragma once

#include <kumiko/stream.h>

#include <mutex>
#include <shared_mutex>
#include <string>

#include "call.h"
#include "context.h"

namespace kumiko::python {

class PyPlan {
 public:
  PyPlan(const Context& context, AttentionCall& call, Layout layout);

  Layout layout() const { return layout_; }
  /// Makes of a call's q, k and v one of the planned problem.
  void fill(AttentionCall* call, const Terms& terms, const RowOutputs& rows, nb::handle out) const;
  nb::object run(nb::handle q, nb::handle k, nb::handle v, const nb::tuple& terms, const nb::tuple& rows,
                 nb::handle out) const;
  /// Without the GIL. `args` are of a call that fill() has made and point into this object.
  Status submit(const Stream& stream, const AttentionArgs& args, Ticket* ticket,
                StreamCallback callback) const;
  void update(nb::handle seqused_k, nb::handle block_table, nb::handle kv_indptr);

  std::string explain() const;
  std::int64_t workspace_bytes() const;
  nb::typed<nb::tuple, double, double> predict(nb::handle core_flops, nb::handle core_bandwidth,
                                               nb::handle domain_bandwidth, nb::handle start_seconds) const;

 private:
  /// Calls `ask` while nothing changes the plan.
  template <class Ask>
  void read(const Ask& ask) const {
    without_gil([&] {
      const auto held = lock<std::shared_lock>();
      ask();
      return Status();
    });
  }

  /// Holds updates off runs, and is taken without the GIL. Not in a forked child, where it may be held by a
  /// thread of the parent; there the library refuses to run the plan.
  template <template <class> class Lock>
  Lock<std::shared_mutex> lock() const {
    return forks() == made_after_forks_ ? Lock(changing_) : Lock(changing_, std::defer_lock);
  }

  Plan plan_;
  AttentionArgs planned_;  // of its pointers only those into numbers_ are used
  Numbers numbers_;
  std::int64_t sequences_ = 0;
  Layout layout_;
  int made_after_forks_ = forks();
  mutable std::shared_mutex changing_;
};

}  // namespace kumiko::python
