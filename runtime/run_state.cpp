// SPDX-License-Identifier: Apache-2.0
#include "runtime/run_state.h"

#include <algorithm>
#include <new>
#include <utility>

namespace kumiko {
namespace {

/// Sequences grow step by step, so a buffer that is too small grows by at least half.
std::size_t grown(std::size_t size, std::size_t needed) {
  return std::max(needed, size + size / 2);
}

}  // namespace

RunState* RunStatePool::acquire(const Partition& partition) {
  {
    const std::lock_guard lock(mutex_);
    if (RunState* state = idle_) {
      idle_ = state->next;
      return state;
    }
  }
  auto state = std::make_unique<RunState>();
  fit(partition, *state);
  return state.release();
}

void RunStatePool::release(RunState* state) noexcept {
  const std::lock_guard lock(mutex_);
  state->next = idle_;
  idle_ = state;
}

void RunStatePool::clear() noexcept {
  while (idle_) {
    RunState* next = idle_->next;
    // In a forked child the pool's lock may stay held for ever, so the arenas are freed instead of given
    // back.
    for (std::size_t d = 0; d < idle_->arenas.size() && !context_->is_from_before_fork(); ++d)
      context_->split_states[d].give(std::move(idle_->arenas[d]));
    delete idle_;
    idle_ = next;
  }
}

void RunStatePool::fit(const Partition& partition) {
  try {
    for (RunState* state = idle_; state; state = state->next) fit(partition, *state);
  } catch (...) {
    clear();
    throw;
  }
}

void RunStatePool::fit(const Partition& partition, RunState& state) const {
  const std::size_t merges = std::max(partition.merges.size(), most_.merges);
  if (state.pending_size < merges) {
    state.pending_size = grown(state.pending_size, merges);
    state.pending = std::make_unique<std::atomic<std::uint64_t>[]>(state.pending_size);
  }
  const std::vector<std::int64_t>& floats = partition.domain_floats;
  state.partials.resize(floats.size());
  if (context_->split_states.empty()) {
    const auto all = static_cast<std::size_t>(std::max(partition.partial_floats, most_.partial_floats));
    if (state.heap_size < all) {
      state.heap.reset();
      state.heap_size = grown(std::exchange(state.heap_size, 0), all);
      state.heap = std::make_unique_for_overwrite<float[]>(state.heap_size);
    }
    float* next = state.heap.get();
    for (std::size_t d = 0; d < floats.size(); ++d) {
      state.partials[d] = next;
      next += floats[d];
    }
    return;
  }
  state.arenas.resize(floats.size());
  for (std::size_t d = 0; d < floats.size(); ++d) {
    const auto bytes = static_cast<std::size_t>(std::max(floats[d], most_.partial_floats)) * sizeof(float);
    scheduler::Arena& arena = state.arenas[d];
    if (arena.size() < bytes) {
      const std::size_t wanted = grown(arena.size(), bytes);
      if (arena.data() != nullptr) context_->split_states[d].give(std::move(arena));
      arena = context_->split_states[d].take(wanted);
      if (arena.data() == nullptr) throw std::bad_alloc();
    }
    state.partials[d] = reinterpret_cast<float*>(arena.data());
  }
}

}  // namespace kumiko
