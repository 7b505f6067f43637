// SPDX-License-Identifier: Apache-2.0
// A plan, and what of the planned call its runs do not bring along.
#include <nanobind/stl/string.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <utility>

#include "attention.h"
#include "call.h"
#include "context.h"

namespace kumiko::python {
namespace {

class PyPlan {
 public:
  PyPlan(const Context& context, AttentionCall& call, Layout layout) : layout_(layout) {
    check(plan(context, call.args, &plan_));
    planned_ = call.args;
    sequences_ = call.sequences();
    numbers_ = std::move(call.numbers);  // which leaves them where `planned_` points
  }

  nb::object run(nb::handle q, nb::handle k, nb::handle v, nb::handle alibi_slopes, nb::handle bias,
                 nb::handle mask, nb::handle tree_mask, nb::handle bsr_indptr, nb::handle bsr_indices,
                 nb::handle sinks, nb::handle block_table, nb::handle kv_indptr, nb::handle return_lse,
                 nb::handle lse, nb::handle out) const {
    AttentionCall call(q, k, v, layout_);
    call.set(planned_);
    call.set(
        Terms{alibi_slopes, bias, mask, tree_mask, bsr_indptr, bsr_indices, sinks, block_table, kv_indptr});
    call.set_out(out);
    call.set_lse(lse, flag_of("return_lse", return_lse));
    without_gil([&] {
      const auto held = lock<std::shared_lock>();
      return plan_.run(call.args);
    });
    return call.result();
  }

  void update(nb::handle seqused_k, nb::handle block_table, nb::handle kv_indptr) {
    std::vector<std::int32_t> lengths = lengths_of(seqused_k, sequences_);
    std::optional<Imported> table;
    AttentionArgs given = planned_;
    given.block_table = given.kv_indptr = nullptr;
    std::vector<std::int32_t> indptr;
    if (!kv_indptr.is_none()) given.kv_indptr = (indptr = kv_indptr_of(kv_indptr, sequences_)).data();
    if (!block_table.is_none()) table.emplace("block_table", block_table);
    if (table && (given.kv_indptr || planned_.kv_indptr)) {
      if (!given.kv_indptr) wrong_kv_indptr();
      page_lists_of(*table, indptr, &given);
    } else if (table) {
      block_table_of(*table, sequences_, &given);
      if (planned_.block_table && given.max_pages != planned_.max_pages)
        wrong_value("block_table.shape[1]", std::to_string(given.max_pages),
                    "the planned " + std::to_string(planned_.max_pages));
      if (planned_.block_table && given.block_table_stride != planned_.block_table_stride)
        wrong_value("block_table.stride[0]", std::to_string(given.block_table_stride),
                    "the planned " + std::to_string(planned_.block_table_stride));
    }
    without_gil([&] {
      const auto held = lock<std::unique_lock>();
      Status status = plan_.update(lengths, given.block_table, given.kv_indptr);
      if (status.ok()) std::copy(lengths.begin(), lengths.end(), numbers_.seqused_k.begin());
      return status;
    });
  }

  std::string explain() const {
    std::string text;
    read([&] { text = plan_.explain(); });
    return text;
  }
  std::int64_t workspace_bytes() const {
    std::int64_t bytes = 0;
    read([&] { bytes = plan_.workspace_bytes(); });
    return bytes;
  }
  nb::typed<nb::tuple, double, double> predict(nb::handle core_flops, nb::handle core_bandwidth,
                                               nb::handle domain_bandwidth, nb::handle start_seconds) const {
    const MachineRates rates{number_of("core_flops", core_flops), number_of("core_bandwidth", core_bandwidth),
                             number_of("domain_bandwidth", domain_bandwidth),
                             number_of("start_seconds", start_seconds)};
    Prediction said;
    read([&] { said = plan_.predict(rates); });
    return nb::make_tuple(said.seconds, said.attainable_seconds);
  }

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

void init_plan(PyPlan* self, nb::handle q, nb::handle k, nb::handle v, nb::handle causal,
               nb::handle causal_alignment, nb::handle window, nb::handle scale, nb::handle softcap,
               nb::handle alibi_slopes, nb::handle bias, nb::handle mask, nb::handle tree_mask,
               nb::handle bsr_indptr, nb::handle bsr_indices, nb::handle sinks, nb::handle lse_with_sink,
               nb::handle lse_base, nb::handle window_sink_tokens, nb::handle causal_sequences,
               nb::handle prefix_lens, nb::handle seqused_k, nb::handle cu_seqlens_q, nb::handle cu_seqlens_k,
               nb::handle block_table, nb::handle kv_indptr, nb::handle max_pages, nb::handle bsr_rows,
               nb::handle bsr_keys, nb::handle pipeline, nb::handle kv_domains, nb::handle layout,
               nb::handle out, nb::handle context) {
  const Layout order = layout_of(layout);
  AttentionCall call(q, k, v, order);
  call.set(Settings{causal, causal_alignment, window, scale, softcap, lse_with_sink, lse_base,
                    window_sink_tokens, causal_sequences, prefix_lens, seqused_k, cu_seqlens_q, cu_seqlens_k,
                    max_pages, bsr_rows, bsr_keys, pipeline, kv_domains});
  call.set(
      Terms{alibi_slopes, bias, mask, tree_mask, bsr_indptr, bsr_indices, sinks, block_table, kv_indptr});
  if (out.is_none()) {
    call.plan_out();
  } else {
    call.set_out(out);
  }
  new (self) PyPlan(context_of(context), call, order);
}

}  // namespace

void bind_plan(nb::module_& module) {
  using nb::arg;
  nb::class_<PyPlan>(module, "Plan", "What kumiko.Plan wraps.")
      .def("__init__", &init_plan, arg("q").none(), arg("k").none(), arg("v").none(), arg("causal").none(),
           arg("causal_alignment").none(), arg("window").none(), arg("scale").none(), arg("softcap").none(),
           arg("alibi_slopes").none(), arg("bias").none(), arg("mask").none(), arg("tree_mask").none(),
           arg("bsr_indptr").none(), arg("bsr_indices").none(), arg("sinks").none(),
           arg("lse_with_sink").none(), arg("lse_base").none(), arg("window_sink_tokens").none(),
           arg("causal_sequences").none(), arg("prefix_lens").none(), arg("seqused_k").none(),
           arg("cu_seqlens_q").none(), arg("cu_seqlens_k").none(), arg("block_table").none(),
           arg("kv_indptr").none(), arg("max_pages").none(), arg("bsr_rows").none(), arg("bsr_keys").none(),
           arg("pipeline").none(), arg("kv_domains").none(), arg("layout").none(), arg("out").none(),
           arg("context").none())
      .def("run", &PyPlan::run, arg("q").none(), arg("k").none(), arg("v").none(), arg("alibi_slopes").none(),
           arg("bias").none(), arg("mask").none(), arg("tree_mask").none(), arg("bsr_indptr").none(),
           arg("bsr_indices").none(), arg("sinks").none(), arg("block_table").none(), arg("kv_indptr").none(),
           arg("return_lse").none(), arg("lse").none(), arg("out").none())
      .def("update", &PyPlan::update, arg("seqused_k").none(), arg("block_table").none(),
           arg("kv_indptr").none())
      .def("explain", &PyPlan::explain)
      .def("predict", &PyPlan::predict, arg("core_flops").none(), arg("core_bandwidth").none(),
           arg("domain_bandwidth").none(), arg("start_seconds").none())
      .def("workspace_bytes", &PyPlan::workspace_bytes);
}

}  // namespace kumiko::python
