// SPDX-License-Identifier: Apache-2.0
// A call leaves the caller's floating-point control and affinity mask unchanged, and they change no bit of
// the result.
#include <gtest/gtest.h>
#include <sched.h>

#include <cfenv>
#include <cmath>
#include <functional>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "runtime/attention_backward.h"
#include "runtime/key_parts.h"
#include "runtime/kv_append.h"
#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/support/bits.h"

namespace kumiko::test {
namespace {

Case ordinary() {
  Case c;
  c.q_heads = 4;
  c.kv_heads = 2;
  c.q_len = 40;
  c.kv_len = 700;
  c.head_dim = 24;
  c.is_causal = true;
  c.v_magnitude = 1e-40f;  // subnormal: flushing them would show
  return c;
}

struct CallerState : ::testing::TestWithParam<std::string> {
  // Several threads, so that tasks run on the caller and on helpers alike.
  Context context() const {
    ContextOptions options;
    options.executor = GetParam();
    options.num_threads = 3;
    options.topology = flat_machine(3);
    return context_of(options);
  }
};

#if defined(__x86_64__)
struct KeepMxcsr {
  const unsigned saved = _mm_getcsr();
  ~KeepMxcsr() { _mm_setcsr(saved); }
};

TEST_P(CallerState, MxcsrIsRestoredAndChangesNoBit) {
  const Context ctx = context();
  for (Case c : {ordinary(), Case{}}) {
    const Problem problem(c);
    const Outcome want = problem.run(ctx);
    constexpr unsigned kMasked = 0x1f80, kFlushToZero = 0x8000, kDenormalsAreZero = 0x0040;
    for (const unsigned rounding : {0x0000u, 0x2000u, 0x4000u, 0x6000u}) {  // nearest, down, up, to zero
      for (const unsigned flush : {0u, kFlushToZero | kDenormalsAreZero}) {
        const KeepMxcsr keep;
        const unsigned mine = kMasked | rounding | flush;
        problem.poison_outputs();
        _mm_setcsr(mine);
        const Status status = attention_forward(ctx, problem.args());
        const unsigned after = _mm_getcsr();
        _mm_setcsr(keep.saved);
        ASSERT_TRUE(status.ok()) << status.message();
        // The low six bits are sticky flags; the call must not change them either.
        EXPECT_EQ(after, mine) << std::hex << "MXCSR was " << mine << ", is " << after;
        EXPECT_TRUE(same_bits(problem.outcome(), want)) << std::hex << "MXCSR " << mine;
      }
    }
  }
}

TEST_P(CallerState, UnmaskedExceptionsDoNotTrap) {
  const Context ctx = context();
  const Problem problem(ordinary());
  problem.q.at(0, 0, 3, 2) = INFINITY;
  problem.k.at(0, 0, 5, 2) = NAN;
  problem.v.at(0, 0, 6, 2) = 1e-42f;
  const Outcome want = problem.run(ctx);
  const KeepMxcsr keep;
  problem.poison_outputs();
  _mm_setcsr(0x0000);  // every exception traps
  const Status status = attention_forward(ctx, problem.args());
  const unsigned after = _mm_getcsr();
  _mm_setcsr(keep.saved);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(after, 0u);
  EXPECT_TRUE(same_bits(problem.outcome(), want));
}
#elif defined(__aarch64__)
struct FloatRegisters {
  std::uint64_t fpcr, fpsr;  // control, sticky flags

  static FloatRegisters get() {
    FloatRegisters now;
    asm volatile("mrs %0, fpcr" : "=r"(now.fpcr));
    asm volatile("mrs %0, fpsr" : "=r"(now.fpsr));
    return now;
  }
  void set() const {
    asm volatile("msr fpcr, %0" ::"r"(fpcr));
    asm volatile("msr fpsr, %0" ::"r"(fpsr));
  }
};

TEST_P(CallerState, FpcrAndFpsrAreRestoredAndChangeNoBit) {
  const Context ctx = context();
  for (Case c : {ordinary(), Case{}}) {
    const Problem problem(c);
    const Outcome want = problem.run(ctx);
    constexpr std::uint64_t kFlushToZero = 1u << 24, kDefaultNan = 1u << 25, kRounding = 1u << 22;
    constexpr std::uint64_t kInvalid = 1u << 0, kInputDenormal = 1u << 7;
    for (const std::uint64_t rounding : {0, 1, 2, 3}) {  // nearest, up, down, to zero
      for (const std::uint64_t flush : {std::uint64_t{0}, kFlushToZero | kDefaultNan}) {
        for (const std::uint64_t flags : {std::uint64_t{0}, kInvalid | kInputDenormal}) {
          const FloatRegisters mine{rounding * kRounding | flush, flags}, before = FloatRegisters::get();
          problem.poison_outputs();
          mine.set();
          const Status status = attention_forward(ctx, problem.args());
          const FloatRegisters after = FloatRegisters::get();
          before.set();
          ASSERT_TRUE(status.ok()) << status.message();
          EXPECT_EQ(after.fpcr, mine.fpcr) << std::hex << "FPCR was " << mine.fpcr;
          EXPECT_EQ(after.fpsr, mine.fpsr) << std::hex << "FPSR was " << mine.fpsr;
          EXPECT_TRUE(same_bits(problem.outcome(), want)) << std::hex << "FPCR " << mine.fpcr;
        }
      }
    }
  }
}
#endif

TEST_P(CallerState, RoundingModeIsRestored) {
  const Context ctx = context();
  const Problem problem(ordinary());
  for (const int mode : {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO, FE_TONEAREST}) {
    problem.poison_outputs();
    std::fesetround(mode);
    const Status status = attention_forward(ctx, problem.args());
    const int after = std::fegetround();
    std::fesetround(FE_TONEAREST);
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(after, mode);
  }
}

/// Every call that computes, each with its outputs in memory of its own.
class Calls {
 public:
  explicit Calls(const Context& context) : context_(context) {
    Case c;
    c.q_heads = 2, c.q_len = 40, c.kv_len = 96, c.head_dim = 24, c.v_head_dim = 24;
    forward_ = std::make_unique<Problem>(c);
    const AttentionArgs& a = forward_->args();
    add([=, this] { return attention_forward(context_, a); });
    softmax_.scores = {a.k.data, {1, 2, 24, 96}, {0, 0, 96, 1}}, softmax_.v = a.v, softmax_.scale = 0.37f;
    add([this] {
      softmax_.out = Tensor::bhsd(room(2 * 24 * 24), 1, 2, 24, 24), softmax_.lse.data = room(2 * 24);
      return softmax_pv(context_, softmax_);
    });
    add([=, this] {
      return fused_gemm(context_, {.q = a.q,
                                   .k = a.k,
                                   .v = a.v,
                                   .out = Tensor::bhsd(room(2 * 40 * 24), 1, 2, 40, 24),
                                   .scale = 0.37f});
    });
    add([=, this] {
      const AttentionState states[] = {{a.q, lse_.data()}, {a.q, lse_.data() + 80}};
      return merge_states(context_, states, Tensor::bhsd(room(2 * 40 * 24), 1, 2, 40, 24), {room(2 * 40)});
    });
    add([=, this] {
      const Tensor out = Tensor::bhsd(room(2 * 40 * 6), 1, 2, 40, 24, DataType::i8);
      return quantize_rows(context_, a.q, out, {room(2 * 40)});
    });
    add([=, this] {
      KvAppendArgs append;
      append.key = a.q, append.value = a.q;
      append.key_cache = Tensor::bhsd(room(2 * 40 * 24), 1, 2, 40, 24);
      append.value_cache = Tensor::bhsd(room(2 * 40 * 24), 1, 2, 40, 24);
      append.slot_mapping = append.positions = slots_.data(), append.rotary_dim = 24;
      append.rope_theta = 7e3, append.rope_scale = 0.3;
      return kv_append(context_, append);
    });
    for (const bool is_planned : {false, true}) {
      add([=, this] {
        BackwardArgs b;
        b.forward = a, b.forward.alibi_slopes = lse_.data();
        b.dout = a.q;
        b.dq = Tensor::bhsd(room(2 * 40 * 24), 1, 2, 40, 24);
        b.dk = Tensor::bhsd(room(96 * 24), 1, 1, 96, 24), b.dv = Tensor::bhsd(room(96 * 24), 1, 1, 96, 24);
        b.dalibi_slopes = room(2);
        if (!is_planned) return attention_backward(context_, b);
        BackwardPlan plan;
        const Status status = plan_backward(context_, b, &plan);
        return status.ok() ? plan.run(b) : status;
      });
    }
    add([=, this] {
      Plan made;
      const Status status = plan(context_, a, &made);
      return status.ok() ? made.run(a) : status;
    });
    add([=, this] {
      AttentionArgs part = a;
      part.out = Tensor::bhsd(room(2 * 40 * 24), 1, 2, 40, 24), part.lse = {};
      return attention_continue(context_, part, {}, nullptr, true, true);
    });
    add([=, this] {
      float* const states = room(2 * 40 * 26);
      const Status status = attention_split_states(context_, a, {}, states);
      const float* const parts[] = {states};
      return status.ok() ? merge_split_states(context_, a, parts) : status;
    });
  }

  std::size_t count() const { return calls_.size(); }
  /// Of call `i`, with what it wrote in `written`.
  Status run(std::size_t i) {
    used_ = 0;
    std::fill(room_.begin(), room_.end(), 0.0f);
    return calls_[i]();
  }
  std::vector<float> written() const {
    const Outcome forward = forward_->outcome();
    std::vector<float> all(room_.begin(), room_.begin() + used_);
    all.insert(all.end(), forward.out.begin(), forward.out.end());
    all.insert(all.end(), forward.lse.begin(), forward.lse.end());
    return all;
  }

 private:
  void add(std::function<Status()> call) { calls_.push_back(std::move(call)); }
  float* room(std::ptrdiff_t floats) {
    float* const begin = room_.data() + used_;
    used_ += floats;
    return begin;
  }

  Context context_;
  std::unique_ptr<Problem> forward_;
  SoftmaxPvArgs softmax_;
  std::vector<float> lse_ = [] {
    std::vector<float> sums(160);
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i] = 0.01f * static_cast<float>(i * 37 % 101);
    return sums;
  }();
  std::vector<std::int64_t> slots_ = [] {
    std::vector<std::int64_t> all(40);
    std::iota(all.begin(), all.end(), 0);
    return all;
  }();
  std::vector<float> room_ = std::vector<float>(20'000);
  std::ptrdiff_t used_ = 0;
  std::vector<std::function<Status()>> calls_;
};

// Scales, angles, sums in double: whatever a call computes, it computes them rounding to nearest.
TEST_P(CallerState, NoCallRoundsAsItsCallerDoesOrChangesThat) {
  Calls calls(context());
  for (std::size_t i = 0; i < calls.count(); ++i) {
    Status status = calls.run(i);
    ASSERT_TRUE(status.ok()) << i << ": " << status.message();
    const std::vector<float> want = calls.written();
    for (const int mode : {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
      std::fesetround(mode);
      std::feclearexcept(FE_ALL_EXCEPT);
      status = calls.run(i);
      const int after = std::fegetround(), flags = std::fetestexcept(FE_ALL_EXCEPT);
      std::fesetround(FE_TONEAREST);
      ASSERT_TRUE(status.ok()) << i << ": " << status.message();
      EXPECT_EQ(after, mode) << "call " << i;
      EXPECT_EQ(flags, 0) << "call " << i;
      EXPECT_TRUE(same_bits(calls.written(), want)) << "call " << i << ", rounding mode " << mode;
    }
  }
}

cpu_set_t affinity() {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof set, &set);
  return set;
}

// Bound workers on the host itself: the only setting that pins threads.
TEST_P(CallerState, AffinityOfTheCallerIsUnchanged) {
  for (const char* bind : {"close", "spread", "none"}) {
    ContextOptions options;
    options.executor = GetParam();
    options.bind = bind;
    const cpu_set_t before = affinity();
    Context context;
    const Status status = Context::create(options, &context);
    ASSERT_TRUE(status.ok()) << status.message();
    cpu_set_t after = affinity();
    EXPECT_TRUE(CPU_EQUAL(&after, &before)) << "create, bind " << bind;
    const Problem problem(ordinary());
    for (int repeat = 0; repeat < 3; ++repeat) problem.run(context);
    after = affinity();
    EXPECT_TRUE(CPU_EQUAL(&after, &before)) << "run, bind " << bind;
    std::thread([&] {
      const cpu_set_t mine = affinity();
      problem.run(context);
      const cpu_set_t still = affinity();
      EXPECT_TRUE(CPU_EQUAL(&mine, &still)) << "run on another thread, bind " << bind;
    }).join();
  }
}

// A caller pinned to one CPU stays there and gets its result.
TEST_P(CallerState, APinnedCallerStaysPinned) {
  const Problem problem(ordinary());
  ContextOptions options;
  options.executor = GetParam();
  const Context ctx = context_of(options);
  const Outcome want = problem.run(ctx);
  std::thread([&] {
    cpu_set_t one = affinity();
    int cpu = 0;
    while (!CPU_ISSET(cpu, &one)) ++cpu;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
    EXPECT_TRUE(same_bits(problem.run(ctx), want));
    const cpu_set_t after = affinity();
    EXPECT_TRUE(CPU_EQUAL(&after, &one));
  }).join();
}

INSTANTIATE_TEST_SUITE_P(Executor, CallerState, ::testing::ValuesIn(kAllExecutors), StringName());

}  // namespace
}  // namespace kumiko::test
