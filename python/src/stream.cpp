// SPDX-License-Identifier: Apache-2.0
// Streams and their tickets, which keep the tensors of a call alive until it has ended.
#include <cxxabi.h>
#include <kumiko/stream.h>
#include <nanobind/stl/shared_ptr.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <iterator>
#include <memory>
#include <set>
#include <utility>
#include <variant>

#include "append.h"
#include "attention.h"
#include "call.h"
#include "context.h"
#include "plan.h"

namespace kumiko::python {
namespace {

/// A submitted call. The GIL guards it, and is needed to destroy it.
class PyTicket {
 public:
  PyTicket(nb::handle q, nb::handle k, nb::handle v, Layout layout, nb::handle plan)
      : call(std::in_place_type<AttentionCall>, q, k, v, layout), plan_(nb::borrow(plan)) {}
  explicit PyTicket(const AppendInputs& given) : call(std::in_place_type<AppendCall>, given) {}

  nb::object wait() const {
    without_gil([&] { return ticket.wait(); });
    return std::visit([](const auto& made) { return made.result(); }, call);
  }
  bool done() const { return ticket.done(); }
  bool cancel() const { return ticket.cancel(); }

  std::variant<AttentionCall, AppendCall> call;
  Ticket ticket;
  nb::object callback;
  bool is_submitted = false;  ///< From here on nobody writes `ticket`.

 private:
  nb::object plan_;  // which the call refers to
};

/// Calls the ticket's callback, on the stream's thread.
void call_back(std::shared_ptr<PyTicket> ticket) {
  try {
    const nb::gil_scoped_acquire gil;
    const std::shared_ptr<PyTicket> held = std::move(ticket);  // let go of before the GIL
    const nb::object callback = std::exchange(held->callback, nb::object());
    try {
      callback(nb::cast(held));
    } catch (nb::python_error& error) {
      error.discard_as_unraisable(callback);
    }
  } catch (abi::__forced_unwind&) {  // The interpreter is ending: see take_gil_back().
    for (;;) pause();
  }
}

using Tickets = std::deque<std::shared_ptr<PyTicket>>;

class PyStream;
/// The open streams, which end before the interpreter does: their callbacks need it. The GIL guards both.
std::set<PyStream*> open_streams;
bool is_ending = false;

/// A stream and the tickets whose calls may not have ended. Destroyed with the GIL, in this order.
struct OpenStream {
  Stream stream;
  Tickets tickets;

  ~OpenStream() {
    PyThreadState* const state = PyEval_SaveThread();
    stream = Stream();  // waits for callbacks, which take the GIL
    take_gil_back(state);
  }
};

class PyStream {
 public:
  PyStream(const Context& context, std::int64_t capacity) : open_(std::make_shared<OpenStream>()) {
    if (is_ending)
      check({Code::unsupported, "stream is made while the interpreter ends; expected one made before"});
    without_gil([&] { return Stream::create(context, {capacity}, &open_->stream); });
    open_streams.insert(this);
  }
  PyStream(const PyStream&) = delete;
  PyStream& operator=(const PyStream&) = delete;
  ~PyStream() { close(); }

  void close() {
    open_streams.erase(this);
    const std::shared_ptr<OpenStream> last = std::move(open_);
  }

  std::shared_ptr<PyTicket> run(nb::handle plan, nb::handle q, nb::handle k, nb::handle v,
                                const nb::tuple& terms, const nb::tuple& rows, nb::handle out,
                                nb::handle callback) {
    const PyPlan* planned = nullptr;
    if (!nb::try_cast(plan, planned) || planned == nullptr) wrong_type("plan", plan, "a kumiko.Plan");
    auto ticket = std::make_shared<PyTicket>(q, k, v, planned->layout(), plan);
    auto& call = std::get<AttentionCall>(ticket->call);
    planned->fill(&call, unpacked<Terms>(terms), unpacked<RowOutputs>(rows), out);
    submit(ticket, callback, [&](const Stream& stream, StreamCallback on_end) {
      return planned->submit(stream, call.args, &ticket->ticket, std::move(on_end));
    });
    return ticket;
  }

  std::shared_ptr<PyTicket> attention(nb::handle q, nb::handle k, nb::handle v, const nb::tuple& settings,
                                      const nb::tuple& terms, const nb::tuple& rows, nb::handle layout,
                                      nb::handle out, nb::handle callback) {
    auto ticket = std::make_shared<PyTicket>(q, k, v, layout_of(layout), nb::none());
    auto& call = std::get<AttentionCall>(ticket->call);
    call.set(unpacked<Settings>(settings));
    call.set(unpacked<Terms>(terms));
    call.set_out(out);
    call.set(unpacked<RowOutputs>(rows));
    submit(ticket, callback, [&](const Stream& stream, StreamCallback on_end) {
      return stream.submit(call.args, &ticket->ticket, std::move(on_end));
    });
    return ticket;
  }

  std::shared_ptr<PyTicket> append(nb::handle key, nb::handle value, nb::handle key_cache,
                                   nb::handle value_cache, nb::handle slot_mapping, nb::handle query,
                                   nb::handle query_out, nb::handle positions, nb::handle rotary_dim,
                                   nb::handle interleaved, nb::handle cos_sin, nb::handle rope_theta,
                                   nb::handle rope_scale, nb::handle key_norm, nb::handle query_norm,
                                   nb::handle norm_eps, nb::handle layout, nb::handle key_layout,
                                   nb::handle page_domains, nb::handle callback) {
    auto ticket = std::make_shared<PyTicket>(
        AppendInputs{key, value, key_cache, value_cache, slot_mapping, query, query_out, positions,
                     rotary_dim, interleaved, cos_sin, rope_theta, rope_scale, key_norm, query_norm, norm_eps,
                     layout, key_layout, page_domains});
    submit(ticket, callback, [&](const Stream& stream, StreamCallback on_end) {
      return stream.submit(std::get<AppendCall>(ticket->call).args, &ticket->ticket, std::move(on_end));
    });
    return ticket;
  }

 private:
  /// Calls send(stream, callback) without the GIL.
  template <class Send>
  void submit(const std::shared_ptr<PyTicket>& ticket, nb::handle callback, const Send& send) {
    const std::shared_ptr<OpenStream> open = open_;  // which another thread may close meanwhile
    if (!open) wrong_value("stream", "closed", "an open one");
    StreamCallback on_end;
    if (!callback.is_none()) {
      if (!PyCallable_Check(callback.ptr())) wrong_type("callback", callback, "a function or None");
      ticket->callback = nb::borrow(callback);
      on_end = [held = ticket](const Status&) mutable { call_back(std::move(held)); };
    }
    forget_ended(&open->tickets);
    open->tickets.push_back(ticket);
    try {
      without_gil([&] { return send(open->stream, std::move(on_end)); });
    } catch (...) {
      ticket->callback.reset();
      std::erase(open->tickets, ticket);
      throw;
    }
    ticket->is_submitted = true;
  }

  /// Lets go of tickets whose calls have ended: in order from the first; cancelled ones between those that
  /// wait only now and then, so that a submission's share of the work is small. They are destroyed last: that
  /// may run finalizers of their tensors, which may submit to this stream.
  void forget_ended(Tickets* tickets) {
    const auto has_ended = [](const auto& ticket) { return ticket->is_submitted && ticket->done(); };
    Tickets ended;
    for (; !tickets->empty() && has_ended(tickets->front()); tickets->pop_front())
      ended.push_back(std::move(tickets->front()));
    if (tickets->size() < look_at_) return;
    const auto first = std::stable_partition(tickets->begin(), tickets->end(), std::not_fn(has_ended));
    std::move(first, tickets->end(), std::back_inserter(ended));
    tickets->erase(first, tickets->end());
    look_at_ = std::max<std::size_t>(2 * tickets->size(), 64);
  }

  std::shared_ptr<OpenStream> open_;  // nullptr: closed
  std::size_t look_at_ = 64;
};

void init_stream(PyStream* self, nb::handle context, nb::handle capacity) {
  new (self) PyStream(context_of(context), integer_of("capacity", capacity));
}

void end_streams() {
  is_ending = true;
  while (!open_streams.empty()) (*open_streams.begin())->close();
}

}  // namespace

void bind_stream(nb::module_& module) {
  using nb::arg;
  nb::class_<PyTicket>(module, "Ticket",
                       "A submitted call, from Stream.submit(), attention() and kv_append().")
      .def(
          "wait", &PyTicket::wait, nb::sig("def wait(self) -> typing.Any"),
          "Waits for the call and its callback and returns what the call would have returned, or raises what "
          "it would have raised; concurrent.futures.CancelledError if it was cancelled. In the call's own "
          "callback it does not wait. Any number of threads may wait, any number of times. Raises ValueError "
          "in a callback of the stream for a later call, NotImplementedError in a forked child for one that "
          "had not ended.")
      .def("cancel", &PyTicket::cancel,
           "True: the call had not started and never will. False: it runs, has ended, or was cancelled "
           "before.")
      .def_prop_ro("done", &PyTicket::done, "Whether wait() would return at once.");
  nb::class_<PyStream>(module, "Stream", "What kumiko.Stream wraps.")
      .def("__init__", &init_stream, arg("context").none(), arg("capacity").none())
      .def("close", &PyStream::close)
      .def("run", &PyStream::run, arg("plan").none(), arg("q").none(), arg("k").none(), arg("v").none(),
           arg("terms"), arg("rows"), arg("out").none(), arg("callback").none())
      .def("attention", &PyStream::attention, arg("q").none(), arg("k").none(), arg("v").none(),
           arg("settings"), arg("terms"), arg("rows"), arg("layout").none(), arg("out").none(),
           arg("callback").none())
      .def("kv_append", &PyStream::append, arg("key").none(), arg("value").none(), arg("key_cache").none(),
           arg("value_cache").none(), arg("slot_mapping").none(), arg("query").none(),
           arg("query_out").none(), arg("positions").none(), arg("rotary_dim").none(),
           arg("interleaved").none(), arg("cos_sin").none(), arg("rope_theta").none(),
           arg("rope_scale").none(), arg("key_norm").none(), arg("query_norm").none(), arg("norm_eps").none(),
           arg("layout").none(), arg("key_layout").none(), arg("page_domains").none(),
           arg("callback").none());
  nb::module_::import_("atexit").attr("register")(nb::cpp_function(&end_streams));
}

}  // namespace kumiko::python
