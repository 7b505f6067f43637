// SPDX-License-Identifier: Apache-2.0
#include "plan.h"

#include <nanobind/stl/string.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "attention.h"

namespace kumiko::python {

PyPlan::PyPlan(const Context& context, AttentionCall& call, Layout layout) : layout_(layout) {
  without_gil([&] { return plan(context, call.args, &plan_); });
  planned_ = call.args;
  sequences_ = call.sequences();
  numbers_ = std::move(call.numbers);  // which leaves them where `planned_` points
}

void PyPlan::fill(AttentionCall* call, const Terms& terms, const RowOutputs& rows, nb::handle out) const {
  call->set(planned_);
  call->set(terms);
  call->set_out(out);
  call->set(rows);
}

nb::object PyPlan::run(nb::handle q, nb::handle k, nb::handle v, const nb::tuple& terms,
                       const nb::tuple& rows, nb::handle out) const {
  AttentionCall call(q, k, v, layout_);
  fill(&call, unpacked<Terms>(terms), unpacked<RowOutputs>(rows), out);
  without_gil([&] {
    const auto held = lock<std::shared_lock>();
    return plan_.run(call.args);
  });
  return call.result();
}

Status PyPlan::submit(const Stream& stream, const AttentionArgs& args, Ticket* ticket,
                      StreamCallback callback) const {
  const auto held = lock<std::shared_lock>();
  return stream.submit(plan_, args, ticket, std::move(callback));
}

void PyPlan::update(nb::handle seqused_k, nb::handle block_table, nb::handle kv_indptr) {
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

std::string PyPlan::explain() const {
  std::string text;
  read([&] { text = plan_.explain(); });
  return text;
}

std::int64_t PyPlan::workspace_bytes() const {
  std::int64_t bytes = 0;
  read([&] { bytes = plan_.workspace_bytes(); });
  return bytes;
}

nb::typed<nb::tuple, double, double> PyPlan::predict(nb::handle core_flops, nb::handle core_bandwidth,
                                                     nb::handle domain_bandwidth,
                                                     nb::handle start_seconds) const {
  const MachineRates rates{number_of("core_flops", core_flops), number_of("core_bandwidth", core_bandwidth),
                           number_of("domain_bandwidth", domain_bandwidth),
                           number_of("start_seconds", start_seconds)};
  Prediction said;
  read([&] { said = plan_.predict(rates); });
  return nb::make_tuple(said.seconds, said.attainable_seconds);
}

namespace {

void init_plan(PyPlan* self, nb::handle q, nb::handle k, nb::handle v, const nb::tuple& settings,
               const nb::tuple& terms, nb::handle layout, nb::handle out, nb::handle context) {
  const Layout order = layout_of(layout);
  AttentionCall call(q, k, v, order);
  call.set(unpacked<Settings>(settings));
  call.set(unpacked<Terms>(terms));
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
      .def("__init__", &init_plan, arg("q").none(), arg("k").none(), arg("v").none(), arg("settings"),
           arg("terms"), arg("layout").none(), arg("out").none(), arg("context").none())
      .def("run", &PyPlan::run, arg("q").none(), arg("k").none(), arg("v").none(), arg("terms"), arg("rows"),
           arg("out").none())
      .def("update", &PyPlan::update, arg("seqused_k").none(), arg("block_table").none(),
           arg("kv_indptr").none())
      .def("explain", &PyPlan::explain)
      .def("predict", &PyPlan::predict, arg("core_flops").none(), arg("core_bandwidth").none(),
           arg("domain_bandwidth").none(), arg("start_seconds").none())
      .def("workspace_bytes", &PyPlan::workspace_bytes);
}

}  // namespace kumiko::python
