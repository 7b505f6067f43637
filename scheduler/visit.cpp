#include "scheduler/visit.h"

#include <atomic>
#include <thread>

namespace kumiko::scheduler {
namespace {

// One for the process: memory from the heap or a stack would itself have to be handed over in sight.
alignas(kLineBytes) std::atomic<std::uint32_t> g_turnstile{0};

}  // namespace

void open_bag() noexcept {
  g_turnstile.fetch_add(1, std::memory_order_release);
}

void close_bag() noexcept {
  g_turnstile.load(std::memory_order_acquire);
}

void visit_bag(TaskBag& bag, Slots& slots, int slot) noexcept {
  g_turnstile.load(std::memory_order_acquire);
  if (!bag.is_exhausted()) {
    while (!slots.try_claim(slot)) std::this_thread::yield();
    bag.drain(slots.prepare(slot));
    slots.release(slot);
  }
  g_turnstile.fetch_add(1, std::memory_order_release);
}

}  // namespace kumiko::scheduler
