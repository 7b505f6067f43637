// SPDX-License-Identifier: Apache-2.0
#include "tests/scheduler/interleaving.h"

namespace kumiko::test {
namespace {

constexpr std::size_t kStackBytes = std::size_t{256} << 10;

// Stacks are used again by the next interleaving.
std::byte* stack(std::size_t number) {
  static std::vector<std::unique_ptr<std::byte[]>> stacks;
  while (stacks.size() <= number) stacks.push_back(std::make_unique<std::byte[]>(kStackBytes));
  return stacks[number].get();
}

}  // namespace

Interleaving* Interleaving::current_ = nullptr;

void Interleaving::add(std::function<void()> body) {
  auto life = std::make_unique<Life>();
  life->body = std::move(body);
  getcontext(&life->context);
  life->context.uc_stack.ss_sp = stack(lives_.size());
  life->context.uc_stack.ss_size = kStackBytes;
  life->context.uc_link = &home_;
  makecontext(&life->context, &Interleaving::begin, 0);
  lives_.push_back(std::move(life));
}

void Interleaving::begin() {
  Life& life = *current_->turn_;
  life.body();
  life.ended = true;
}

std::string Interleaving::run() {
  current_ = this;
  std::string failure;
  for (;;) {
    std::vector<Life*> awake;
    std::size_t asleep = 0;
    for (const auto& life : lives_) {
      if (life->sleeps_on != nullptr) ++asleep;
      if (!life->ended && life->sleeps_on == nullptr) awake.push_back(life.get());
    }
    if (awake.empty()) {
      if (asleep > 0) failure = std::to_string(asleep) + " threads sleep and nobody is left to wake them";
      break;
    }
    if (steps_ > kMostSteps) {
      failure = "no end after " + std::to_string(steps_) + " steps";
      break;
    }
    turn_ = random_.pick(awake);
    swapcontext(&home_, &turn_->context);
  }
  current_ = nullptr;
  return failure;
}

void Interleaving::hand_turn_back() noexcept {
  swapcontext(&turn_->context, &home_);
}

void Interleaving::step() noexcept {
  if (current_ == nullptr) return;
  ++current_->steps_;
  if (current_->random_.one_in(current_->stay_)) current_->hand_turn_back();
}

void Interleaving::sleep_on(const void* address) noexcept {
  current_->turn_->sleeps_on = address;
  current_->hand_turn_back();
}

void Interleaving::wake(const void* address, bool all) noexcept {
  if (current_ == nullptr) return;
  std::vector<Life*> asleep;
  for (const auto& life : current_->lives_) {
    if (life->sleeps_on == address) asleep.push_back(life.get());
  }
  if (asleep.empty()) return;
  if (!all) asleep = {current_->random_.pick(asleep)};
  for (Life* life : asleep) life->sleeps_on = nullptr;
}

int Interleaving::asleep() noexcept {
  return static_cast<int>(std::count_if(current_->lives_.begin(), current_->lives_.end(),
                                        [](const auto& life) { return life->sleeps_on != nullptr; }));
}

}  // namespace kumiko::test
