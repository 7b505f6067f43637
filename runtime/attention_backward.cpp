// SPDX-License-Identifier: Apache-2.0
// attention_backward: block pairs of every KV head, in steps in which no two tasks write the same sum.
#include "runtime/attention_backward.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "kernels/float_state.h"
#include "kernels/pipelines/backward.h"
#include "runtime/context.h"
#include "runtime/problem.h"
#include "runtime/row_block.h"
#include "runtime/validate.h"

namespace kumiko {
namespace {

using kernels::Element;
using kernels::element_at;
using kernels::GradientProblem;
using kernels::kGradientBlock;
using kernels::Positions;

constexpr double kLog2OfE = 1.44269504088896340736;
constexpr double kInf = std::numeric_limits<double>::infinity();

// A head whose sums take no more is one thread's work, from its first block pair to its last, if there are
// enough heads: its sums stay in that core's caches (1024 queries and keys, D = 128, eight heads, AVX-512 on
// one thread of a Zen 5: 0.85 of the FMA peak, four heads at a time 0.80), and no step waits for its last
// task.
constexpr double kMostOwnBytes = 16 << 20;
constexpr std::int64_t kHeadsPerThread = 2;
// Other heads are computed together until a step has so many tasks and multiply-adds a thread: more would
// only take more memory. (5e7 take about 1 ms.)
constexpr double kStepTasks = 4, kStepProducts = 5e7;
// Beyond this there is no memory to ask for.
constexpr double kMostBytes = 1e15;

/// One KV head of one sequence. Blocks of queries are those of its group's heads, one head after another.
struct Unit {
  std::int64_t capacity = 0;  // keys in dk and dv, used or not
  std::int64_t q_blocks = 0, all_q_blocks = 0, k_blocks = 0;
  GradientProblem gradient{};
  float *lse = nullptr, *delta = nullptr;
  const float *given_lse = nullptr, *dlse = nullptr;
  double* sink_sums = nullptr;  // [group][q_blocks]

  /// Steps that bring every block of queries together with every block of keys.
  std::int64_t steps() const { return std::max(all_q_blocks, k_blocks); }
  Positions queries(std::int64_t r) const {
    const std::int64_t first = r % q_blocks * kGradientBlock;
    return {first, std::min(first + kGradientBlock, gradient.head.q_len)};
  }
  static Positions keys(std::int64_t c, std::int64_t count) {
    return {std::min(c * kGradientBlock, count), std::min((c + 1) * kGradientBlock, count)};
  }
};

/// A task: of a pair of blocks, or of one of them (the other is -1).
struct Item {
  std::int32_t unit, r, c;
};

struct Free {
  void operator()(std::byte* memory) const noexcept { ::operator delete[](memory, std::align_val_t{64}); }
};

template <class T>
void widen(const void* row, std::int64_t dim, float* to) {
  for (std::int64_t d = 0; d < dim; ++d) to[d] = kernels::to_float(static_cast<const T*>(row)[d]);
}
void widen(Element element, const void* row, std::int64_t dim, float* to) {
  if (element == Element::f32) return widen<float>(row, dim, to);
  if (element == Element::bf16) return widen<kernels::Bf16>(row, dim, to);
  return widen<kernels::F16>(row, dim, to);
}

/// Sum of products, exact but for the rounding of f64 sums: 8 chains over d mod 8, added in order.
double dot(const float* a, const float* b, std::int64_t dim) {
  constexpr std::int64_t kChains = 8;
  double chain[kChains] = {};
  std::int64_t d = 0;
  for (; d + kChains <= dim; d += kChains) {
    for (std::int64_t i = 0; i < kChains; ++i)
      chain[i] += static_cast<double>(a[d + i]) * static_cast<double>(b[d + i]);
  }
  for (std::int64_t i = 0; d < dim; ++d, ++i)
    chain[i] += static_cast<double>(a[d]) * static_cast<double>(b[d]);
  double sum = 0.0;
  for (const double c : chain) sum += c;
  return sum;
}

/// log(exp(a) + exp(b))
double log_add(double a, double b) {
  const double most = std::max(a, b);
  return std::isinf(most) ? most : most + std::log(std::exp(a - most) + std::exp(b - most));
}

class Backward {
 public:
  Backward(const Context::Impl& runtime, const BackwardArgs& args)
      : runtime_(runtime), args_(args), problem_(lower(args.forward)), operands_(operands_of(args.forward)) {
    const Element dout = element_of(args.dout.dtype);
    kernels_.set = *kernels::kernel_set(runtime.isa, problem_.types, Element::f32);
    kernels_.gradient = kernels::find_gradient(runtime.isa);
    kernels_.pack_dout = kernels::find_pack(runtime.isa, dout, Element::f32);
    kernels_.pack_f32 = kernels::find_pack(runtime.isa, Element::f32, Element::f32);
    kernels_.store_dq = kernels::find_store(runtime.isa, element_of(args.dq.dtype));
    kernels_.store_dk = kernels::find_store(runtime.isa, element_of(args.dk.dtype));
    kernels_.store_dv = kernels::find_store(runtime.isa, element_of(args.dv.dtype));
    scratch_bytes_ = kernels::gradient_scratch_bytes(kernels_, problem_.head_dim, problem_.v_head_dim);
  }

  Status run() {
    // Without queries and keys there may be any number of heads.
    if (problem_.q_len == 0 && args_.dk.shape[2] == 0) {
      if (args_.dsinks) std::fill_n(args_.dsinks, problem_.q_heads, 0.0f);
      return {};
    }
    const std::int64_t units = problem_.batch * problem_.kv_heads, threads = runtime_.executor->concurrency();
    if (args_.dsinks)
      sink_sums_ = std::make_unique<double[]>(
          static_cast<std::size_t>(problem_.batch * problem_.q_heads * q_blocks()));
    std::int64_t next = 0;
    if (threads == 1 || units >= threads * kHeadsPerThread) {
      if (Status s = run_alone(units - units % threads, &next); !s.ok()) return s;
    }
    while (next < units) {
      if (Status s = run_together(units, &next); !s.ok()) return s;
    }
    add_sinks();
    return {};
  }

 private:
  std::int64_t q_blocks() const { return ceil_div(problem_.q_len, kGradientBlock); }

  Unit make_unit(std::int64_t number) const {
    const std::int64_t b = number / problem_.kv_heads, kv_head = number % problem_.kv_heads;
    Unit unit;
    unit.capacity = problem_.capacity(b);
    GradientProblem& g = unit.gradient;
    g.head = problem_.head(operands_, b, kv_head);
    const Sequence sequence = problem_.sequence(b);
    const std::int64_t q_head = kv_head * problem_.group(), q_batch = problem_.has_cu_seqlens_q ? 0 : b,
                       k_batch = problem_.has_cu_seqlens_k ? 0 : b;
    const auto at_query = [&](const Layout& l) {
      return q_batch * l.batch + q_head * l.head + sequence.q_begin * l.seq;
    };
    const auto rows_of = [](const Tensor& tensor, const Layout& l, std::int64_t at) {
      const Element element = element_of(tensor.dtype);
      return kernels::GradientRows{element_at(element, tensor.data, at), element, l.head, l.seq};
    };
    const auto rows_of_keys = [&](const Tensor& tensor) {
      const Layout l = layout_of(tensor.shape, tensor.stride);
      return rows_of(tensor, l, k_batch * l.batch + kv_head * l.head + sequence.kv_begin * l.seq);
    };
    const Layout dout = layout_of(args_.dout.shape, args_.dout.stride),
                 dq = layout_of(args_.dq.shape, args_.dq.stride),
                 dlse = lse_layout_of(args_.dlse, args_.forward.out);
    g.dout_element = element_of(args_.dout.dtype);
    g.dout = element_at(g.dout_element, args_.dout.data, at_query(dout));
    g.dout_head_stride = dout.head, g.dout_seq_stride = dout.seq;
    g.dq = rows_of(args_.dq, dq, at_query(dq));
    g.dk = rows_of_keys(args_.dk);
    g.dv = rows_of_keys(args_.dv);
    g.scale = args_.forward.scale == 0.0f
                  ? static_cast<float>(1.0 / std::sqrt(static_cast<double>(problem_.head_dim)))
                  : args_.forward.scale;
    unit.dlse = args_.dlse.data ? args_.dlse.data + at_query(dlse) : nullptr;
    unit.q_blocks = ceil_div(g.head.q_len, kGradientBlock);
    unit.all_q_blocks = g.head.group * unit.q_blocks;
    unit.k_blocks = ceil_div(g.head.kv_len, kGradientBlock);
    if (args_.dsinks) unit.sink_sums = sink_sums_.get() + (b * problem_.q_heads + q_head) * q_blocks();
    return unit;
  }

  /// Lays a unit's sums and rows out over `memory`; with nullptr it only counts. Returns the bytes.
  double lay_out(Unit* unit, std::byte* memory) const {
    double bytes = 0;
    const auto take = [&](double floats) {
      std::byte* const piece = memory ? memory + static_cast<std::int64_t>(bytes) : nullptr;
      bytes += 64 * std::ceil(floats / 16);
      return reinterpret_cast<float*>(piece);
    };
    const auto sums = [&](std::int64_t positions, std::int64_t dim) {
      return static_cast<double>(kernels::gradient_floats(kernels_, positions, dim));
    };
    GradientProblem& g = unit->gradient;
    const auto group = static_cast<double>(g.head.group);
    g.lse = unit->lse = take(group * static_cast<double>(g.head.q_len));
    g.delta = unit->delta = take(group * static_cast<double>(g.head.q_len));
    g.dq_sum = take(group * sums(g.head.q_len, g.head.head_dim));
    g.dk_sum = take(sums(g.head.kv_len, g.head.head_dim));
    g.dv_sum = take(sums(g.head.kv_len, g.head.v_head_dim));
    return bytes;
  }

  /// Units from *next on, each a task of its own whose sums are in its thread's scratch.
  Status run_alone(std::int64_t end, std::int64_t* next) {
    double most = 0;
    for (std::int64_t number = 0; number < end;
         number += problem_.kv_heads) {  // Heads of a sequence are alike.
      Unit unit = make_unit(number);
      most = std::max(most, lay_out(&unit, nullptr));
    }
    if (most > kMostOwnBytes) return {};
    *next = end;
    return run_equal_tasks(
        runtime_, end,
        [](void* context, std::int32_t task, const scheduler::Slot& slot) noexcept {
          static_cast<const Backward*>(context)->whole(task, slot.scratch);
        },
        this, scratch_bytes_ + static_cast<std::size_t>(most));
  }

  void whole(std::int64_t number, std::byte* scratch) const {
    Unit unit = make_unit(number);
    lay_out(&unit, scratch + scratch_bytes_);
    for_each_block(unit, [&](std::int64_t r, std::int64_t c) { begin(unit, r, c); });
    for (std::int64_t t = 0; t < unit.steps(); ++t)
      for_each_pair(unit, t, [&](std::int64_t r, std::int64_t c) { pair(unit, r, c, scratch); });
    for_each_block(unit, [&](std::int64_t r, std::int64_t c) { end(unit, r, c); });
  }

  /// Units from *next on, as many as give all threads work in each step.
  Status run_together(std::int64_t end, std::int64_t* next) {
    const double threads = runtime_.executor->concurrency();
    double tasks = 0, products = 0, bytes = 0;
    units_.clear();
    for (; *next < end && (tasks < threads * kStepTasks || products < threads * kStepProducts); ++*next) {
      units_.push_back(make_unit(*next));
      const kernels::HeadProblem& head = units_.back().gradient.head;
      bytes += lay_out(&units_.back(), nullptr);
      tasks += static_cast<double>(units_.back().steps());
      products += static_cast<double>(head.group * head.q_len) * static_cast<double>(head.kv_len) *
                  static_cast<double>(3 * head.head_dim + 2 * head.v_head_dim);
    }
    if (bytes > bytes_) {
      if (bytes > kMostBytes) throw std::bad_alloc();
      memory_.reset();
      memory_.reset(
          static_cast<std::byte*>(::operator new[](static_cast<std::size_t>(bytes), std::align_val_t{64})));
      bytes_ = bytes;
    }
    std::byte* memory = memory_.get();
    for (Unit& unit : units_) memory += static_cast<std::int64_t>(lay_out(&unit, memory));
    if (Status s = run_blocks(&Backward::begin_item); !s.ok()) return s;
    std::int64_t steps = 0;
    for (const Unit& unit : units_) steps = std::max(steps, unit.steps());
    for (std::int64_t t = 0; t < steps; ++t) {
      items_.clear();
      for (std::size_t u = 0; u < units_.size(); ++u)
        for_each_pair(units_[u], t, [&](std::int64_t r, std::int64_t c) { add_item(u, r, c); });
      if (Status s = run_items(&Backward::pair_item); !s.ok()) return s;
    }
    return run_blocks(&Backward::end_item);
  }

  /// Calls body(r, -1) for each block of queries and body(-1, c) for each block of keys.
  template <class Body>
  static void for_each_block(const Unit& unit, Body body) {
    for (std::int64_t r = 0; r < unit.all_q_blocks; ++r) body(r, -1);
    for (std::int64_t c = 0; c < ceil_div(unit.capacity, kGradientBlock); ++c) body(-1, c);
  }
  /// Calls body(r, c) for the pairs of step t that see each other. Block r of the queries meets block (r + t)
  /// mod n of the keys, n the larger number of blocks: no two pairs of a step add to the same sums, and the
  /// order of a sum depends on n alone.
  template <class Body>
  static void for_each_pair(const Unit& unit, std::int64_t t, Body body) {
    const std::int64_t n = unit.steps();
    const kernels::HeadProblem& head = unit.gradient.head;
    for (std::int64_t r = 0; t < n && r < unit.all_q_blocks; ++r) {
      const std::int64_t c = (r + t) % n;
      if (c < unit.k_blocks && kernels::sees_any(head, unit.queries(r), Unit::keys(c, head.kv_len)))
        body(r, c);
    }
  }

  void add_item(std::size_t u, std::int64_t r, std::int64_t c) {
    items_.push_back(
        {static_cast<std::int32_t>(u), static_cast<std::int32_t>(r), static_cast<std::int32_t>(c)});
  }
  using Work = void (Backward::*)(const Unit&, const Item&, std::byte*) const;
  void begin_item(const Unit& unit, const Item& item, std::byte*) const { begin(unit, item.r, item.c); }
  void pair_item(const Unit& unit, const Item& item, std::byte* scratch) const {
    pair(unit, item.r, item.c, scratch);
  }
  void end_item(const Unit& unit, const Item& item, std::byte*) const { end(unit, item.r, item.c); }

  Status run_blocks(Work work) {
    items_.clear();
    for (std::size_t u = 0; u < units_.size(); ++u)
      for_each_block(units_[u], [&](std::int64_t r, std::int64_t c) { add_item(u, r, c); });
    return run_items(work);
  }
  Status run_items(Work work) {
    if (items_.empty()) return {};
    work_ = work;
    return run_equal_tasks(
        runtime_, static_cast<std::int64_t>(items_.size()),
        [](void* context, std::int32_t task, const scheduler::Slot& slot) noexcept {
          const Backward& self = *static_cast<const Backward*>(context);
          const Item& item = self.items_[static_cast<std::size_t>(task)];
          (self.*self.work_)(self.units_[static_cast<std::size_t>(item.unit)], item, slot.scratch);
        },
        this, scratch_bytes_);
  }

  void begin(const Unit& unit, std::int64_t r, std::int64_t c) const {
    const kernels::FloatState float_state;
    const GradientProblem& g = unit.gradient;
    const auto clear = [&](float* sum, const Positions& block, std::int64_t dim) {
      const std::int64_t a_position =
          kernels::gradient_floats(kernels_, kernels_.set.lanes, dim) / kernels_.set.lanes;
      std::fill_n(sum + block.begin * a_position, kernels::gradient_floats(kernels_, block.count(), dim),
                  0.0f);
    };
    if (r < 0) {
      const Positions keys = Unit::keys(c, g.head.kv_len);
      clear(g.dk_sum, keys, g.head.head_dim);
      clear(g.dv_sum, keys, g.head.v_head_dim);
      return;
    }
    const std::int64_t head = r / unit.q_blocks;
    const Positions queries = unit.queries(r);
    clear(g.dq_sum + head * kernels::gradient_floats(kernels_, g.head.q_len, g.head.head_dim), queries,
          g.head.head_dim);
    double sink = 0.0;
    for (std::int64_t i = queries.begin; i < queries.end; ++i) sink += begin_row(unit, head, i);
    if (unit.sink_sums) unit.sink_sums[head * q_blocks() + r % unit.q_blocks] = sink;
  }

  /// Sets lse and delta of a query; returns what it gives to the gradient of its head's sink.
  double begin_row(const Unit& unit, std::int64_t g, std::int64_t i) const {
    const kernels::HeadProblem& head = unit.gradient.head;
    const std::int64_t row = unit.gradient.row(g, i), at = g * head.q_len + i;
    float out[kMaxHeadDim], dout[kMaxHeadDim];
    widen(kernels_.set.types.output, head.out_row(kernels_.set.types.output, row), head.v_head_dim, out);
    widen(unit.gradient.dout_element,
          element_at(unit.gradient.dout_element, unit.gradient.dout,
                     g * unit.gradient.dout_head_stride + i * unit.gradient.dout_seq_stride),
          head.v_head_dim, dout);
    const double unit_of_lse = head.lse_form.is_base_2 ? kLog2OfE : 1.0,
                 given = static_cast<double>(head.lse_of(row)) / unit_of_lse,
                 sink = head.sinks ? static_cast<double>(head.sinks[g]) : -kInf,
                 lse = head.sinks && !head.lse_form.with_sink ? log_add(given, sink) : given;
    double delta = dot(out, dout, head.v_head_dim), sink_gradient = 0.0;
    if (sink != -kInf) {
      const double weight = sink == lse ? 1.0 : std::exp(sink - lse);
      sink_gradient = -weight * delta;
      if (unit.dlse && head.lse_form.with_sink) sink_gradient += weight * dlse_of(unit, g, i) * unit_of_lse;
    }
    // An lse without the sink has other weights than the output: larger by exp(lse - given).
    if (unit.dlse && given != -kInf) delta -= dlse_of(unit, g, i) * unit_of_lse * std::exp(lse - given);
    unit.lse[at] = static_cast<float>(lse * kLog2OfE);
    unit.delta[at] = static_cast<float>(delta);
    return sink_gradient;
  }
  double dlse_of(const Unit& unit, std::int64_t g, std::int64_t i) const {
    const Layout layout = lse_layout_of(args_.dlse, args_.forward.out);
    return static_cast<double>(unit.dlse[g * layout.head + i * layout.seq]);
  }

  void pair(const Unit& unit, std::int64_t r, std::int64_t c, std::byte* scratch) const {
    const kernels::FloatState float_state(kernels_.set.isa);
    kernels::gradient_pair(kernels_, unit.gradient, r / unit.q_blocks, unit.queries(r),
                           Unit::keys(c, unit.gradient.head.kv_len), scratch);
  }

  void end(const Unit& unit, std::int64_t r, std::int64_t c) const {
    const kernels::FloatState float_state(kernels_.set.isa);
    const GradientProblem& g = unit.gradient;
    if (r >= 0) return kernels::store_query_gradients(kernels_, g, r / unit.q_blocks, unit.queries(r));
    const Positions used = Unit::keys(c, g.head.kv_len), all = Unit::keys(c, unit.capacity);
    kernels::store_key_gradients(kernels_, g, used);
    for (std::int64_t j = std::max(used.end, all.begin); j < all.end; ++j) {
      for (const auto& [rows, dim] :
           {std::pair(g.dk, problem_.head_dim), std::pair(g.dv, problem_.v_head_dim)})
        std::memset(rows.row(0, j), 0, static_cast<std::size_t>(dim * kernels::bytes_of(rows.element)));
    }
  }

  void add_sinks() const {
    for (std::int64_t h = 0; args_.dsinks && h < problem_.q_heads; ++h) {
      double sum = 0.0;
      for (std::int64_t b = 0; b < problem_.batch; ++b) {
        const double* const blocks = sink_sums_.get() + (b * problem_.q_heads + h) * q_blocks();
        const std::int64_t count = ceil_div(problem_.sequence(b).q_len, kGradientBlock);
        for (std::int64_t i = 0; i < count; ++i) sum += blocks[i];
      }
      args_.dsinks[h] = kernels::canonical(static_cast<float>(sum));
    }
  }

  const Context::Impl& runtime_;
  const BackwardArgs& args_;
  const Problem problem_;
  const Operands operands_;
  kernels::GradientKernels kernels_{};
  std::size_t scratch_bytes_;
  std::vector<Unit> units_;
  std::vector<Item> items_;
  std::unique_ptr<double[]> sink_sums_;  // [batch][q_heads][q_blocks]
  std::unique_ptr<std::byte[], Free> memory_;
  double bytes_ = 0;
  Work work_ = nullptr;
};

}  // namespace

Status attention_backward(const Context& context, const BackwardArgs& args) {
  return guarded([&]() -> Status {
    if (Status s = validate_backward(args); !s.ok()) return s;
    if (Status s = check_context(context); !s.ok()) return s;
    return Backward(*impl_of(context), args).run();
  });
}

}  // namespace kumiko
