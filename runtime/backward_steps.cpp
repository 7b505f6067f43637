// SPDX-License-Identifier: Apache-2.0
// dq, dk and dv: block pairs of every KV head, in steps in which no two tasks write the same sum.
#include <cstring>

#include "kernels/float_state.h"
#include "runtime/backward_run.h"

namespace kumiko {
namespace {

using kernels::GradientProblem;
using kernels::kGradientBlock;
using kernels::Positions;

/// Calls body(r, -1) for each block of queries and body(-1, c) for each block of keys.
template <class Body>
void for_each_block(const GradientUnit& unit, Body body) {
  for (std::int64_t r = 0; r < unit.all_q_blocks; ++r) body(r, -1);
  for (std::int64_t c = 0; c < ceil_div(unit.capacity, kGradientBlock); ++c) body(-1, c);
}
/// Calls body(r, c) for the pairs of step t that see each other. Block r of the queries meets block (r + t)
/// mod n of the keys, n the larger number of blocks: no two pairs of a step add to the same sums, and the
/// order of a sum depends on n alone.
template <class Body>
void for_each_pair(const GradientUnit& unit, std::int64_t t, Body body) {
  const std::int64_t n = unit.steps();
  const kernels::HeadProblem& head = unit.gradient.head;
  for (std::int64_t r = 0; r < n && r < unit.all_q_blocks; ++r) {
    const std::int64_t c = (r + t) % n;
    if (c < unit.k_blocks &&
        kernels::sees_any(head, unit.gradient.queries(r), GradientUnit::keys(c, head.kv_len)))
      body(r, c);
  }
}

class Steps {
 public:
  explicit Steps(const BackwardRun& run)
      : run_(run), plan_(run.plan), problem_(run.plan.problem), kernels_(run.plan.kernels) {}

  Status run() const {
    if (Status s = run_.for_each_task(
            plan_.alone, [this](std::int32_t number, std::byte* scratch) { whole(number, scratch); });
        !s.ok())
      return s;
    std::int64_t first = plan_.alone;
    for (const std::int64_t end : plan_.groups) {
      if (Status s = run_together(first, end); !s.ok()) return s;
      first = end;
    }
    return {};
  }

 private:
  /// All of a unit, whose sums are in its thread's scratch.
  void whole(std::int64_t number, std::byte* scratch) const {
    GradientUnit unit = run_.make_unit(number);
    plan_.lay_out(&unit, scratch + plan_.pair_bytes);
    for_each_block(unit, [&](std::int64_t r, std::int64_t c) { begin(unit, r, c); });
    pairs_in_columns(unit, scratch);
    for_each_block(unit, [&](std::int64_t r, std::int64_t c) { end(unit, r, c); });
  }

  Status run_together(std::int64_t first, std::int64_t last) const {
    std::vector<GradientUnit>& units = run_.state.units;
    units.clear();
    std::byte* memory = run_.state.sums.get();
    for (std::int64_t number = first; number < last; ++number) {
      units.push_back(run_.make_unit(number));
      memory += static_cast<std::int64_t>(plan_.lay_out(&units.back(), memory));
    }
    list_blocks();
    if (Status s = run_items([this](const GradientUnit& unit, const GradientItem& item, std::byte*) {
          begin(unit, item.r, item.c);
        });
        !s.ok())
      return s;
    std::int64_t steps = 0;
    for (const GradientUnit& unit : units) steps = std::max(steps, unit.steps());
    for (std::int64_t t = 0; t < steps; ++t) {
      run_.state.items.clear();
      for (std::size_t u = 0; u < units.size(); ++u)
        for_each_pair(units[u], t, [&](std::int64_t r, std::int64_t c) { add_item(u, r, c); });
      if (Status s =
              run_items([this](const GradientUnit& unit, const GradientItem& item, std::byte* scratch) {
                pairs(unit, item.r, item.r + 1, item.c, scratch);
              });
          !s.ok())
        return s;
    }
    list_blocks();
    return run_items([this](const GradientUnit& unit, const GradientItem& item, std::byte*) {
      end(unit, item.r, item.c);
    });
  }

  void add_item(std::size_t u, std::int64_t r, std::int64_t c) const {
    run_.state.items.push_back(
        {static_cast<std::int32_t>(u), static_cast<std::int32_t>(r), static_cast<std::int32_t>(c)});
  }
  void list_blocks() const {
    run_.state.items.clear();
    for (std::size_t u = 0; u < run_.state.units.size(); ++u)
      for_each_block(run_.state.units[u], [&](std::int64_t r, std::int64_t c) { add_item(u, r, c); });
  }
  template <class Work>
  Status run_items(const Work& work) const {
    const BackwardState& state = run_.state;
    return run_.for_each_task(std::ssize(state.items), [&](std::int32_t task, std::byte* scratch) {
      const GradientItem& item = state.items[static_cast<std::size_t>(task)];
      work(state.units[static_cast<std::size_t>(item.unit)], item, scratch);
    });
  }

  void begin(const GradientUnit& unit, std::int64_t r, std::int64_t c) const {
    const kernels::FloatState float_state;
    const GradientProblem& g = unit.gradient;
    const auto clear = [&](float* sum, const Positions& block, std::int64_t dim) {
      const std::int64_t per_position =
          kernels::gradient_floats(kernels_, kernels_.set.lanes, dim) / kernels_.set.lanes;
      std::fill_n(sum + block.begin * per_position, kernels::gradient_floats(kernels_, block.count(), dim),
                  0.0f);
    };
    if (r < 0) {
      const Positions keys = GradientUnit::keys(c, g.head.kv_len);
      clear(g.dk_sum, keys, g.head.head_dim);
      clear(g.dv_sum, keys, g.head.v_head_dim);
      return;
    }
    const std::int64_t head = r / unit.gradient.q_blocks();
    const Positions queries = unit.gradient.queries(r);
    clear(g.dq_sum + head * kernels::gradient_floats(kernels_, g.head.q_len, g.head.head_dim), queries,
          g.head.head_dim);
    double sink = 0.0;
    for (std::int64_t i = queries.begin; i < queries.end; ++i) {
      const std::int64_t at = head * g.head.q_len + i;
      sink += run_.begin_row(unit, head, i, unit.lse + at, unit.delta + at);
    }
    if (unit.sink_sums) unit.sink_sums[head * plan_.q_blocks() + r % unit.gradient.q_blocks()] = sink;
  }

  void pairs(const GradientUnit& unit, std::int64_t first, std::int64_t last, std::int64_t c,
             std::byte* scratch) const {
    const kernels::FloatState float_state(kernels_.set.isa);
    kernels::gradient_pairs(kernels_, unit.gradient, first, last,
                            GradientUnit::keys(c, unit.gradient.head.kv_len), scratch);
  }
  /// The pairs of all steps. The pairs of each sum come in the order of the steps, but a block of keys meets
  /// one after another all blocks of queries for which that order allows it, so that its keys are packed
  /// twice and not once a pair. Keys c meet queries c, c - 1, ..., 0 and then n - 1, ..., c + 1; queries r
  /// meet keys r, ..., n - 1 and then 0, ..., r - 1.
  void pairs_in_columns(const GradientUnit& unit, std::byte* scratch) const {
    for (std::int64_t c = 0; c < unit.k_blocks; ++c)
      pairs(unit, 0, std::min(c + 1, unit.all_q_blocks), c, scratch);
    for (std::int64_t c = 0; c < unit.k_blocks; ++c) pairs(unit, c + 1, unit.all_q_blocks, c, scratch);
  }

  void end(const GradientUnit& unit, std::int64_t r, std::int64_t c) const {
    const kernels::FloatState float_state(kernels_.set.isa);
    const GradientProblem& g = unit.gradient;
    if (r >= 0) return kernels::store_query_gradients(kernels_, g, r / g.q_blocks(), g.queries(r));
    const Positions used = GradientUnit::keys(c, g.head.kv_len), all = GradientUnit::keys(c, unit.capacity);
    kernels::store_key_gradients(kernels_, g, used);
    for (std::int64_t j = std::max(used.end, all.begin); j < all.end; ++j) {
      for (const auto& [rows, dim] :
           {std::pair(g.dk, problem_.head_dim), std::pair(g.dv, problem_.v_head_dim)})
        std::memset(rows.row(0, j), 0, static_cast<std::size_t>(dim * kernels::bytes_of(rows.element)));
    }
  }

  const BackwardRun& run_;
  const BackwardPlan::Impl& plan_;
  const Problem& problem_;
  const kernels::GradientKernels& kernels_;
};

}  // namespace

Status run_steps(const BackwardRun& run) {
  return Steps(run).run();
}

}  // namespace kumiko
