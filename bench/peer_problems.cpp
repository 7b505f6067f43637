// SPDX-License-Identifier: Apache-2.0
// The problems and ceilings of attention_bench, serving_bench and backward_bench for Python: bench/peers.py
// loads this as a shared library, so that a peer computes on the same bytes, is checked by the same fp64
// computation and is measured against the same ceilings.
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bench/ceilings.h"
#include "bench/gradient_problem.h"
#include "bench/machine_peak.h"
#include "bench/rounds.h"
#include "bench/shapes.h"

namespace kumiko::bench {
namespace {

struct Found {
  Shape shape;
  bool is_decode = false;
  std::int64_t page_keys = 0;
};

/// A case of attention_bench or serving_bench. In a decode step the peer makes its own pages, of page_keys
/// keys; a step with a chunk has its pages in the shape.
std::optional<Found> find(const std::string& name) {
  for (const Case& c : cases()) {
    if (c.shape.name == name) return Found{c.shape, c.limit == Limit::either};
  }
  for (const Case& c : server_cases()) {
    for (const std::int64_t page_keys : {16, 128}) {
      if (c.shape.name + "_pages" + std::to_string(page_keys) == name) return Found{c.shape, true, page_keys};
    }
  }
  for (const auto& [type, suffix] : {std::pair(DataType::f32, "f32"), std::pair(DataType::bf16, "bf16")}) {
    if (std::string("mixed_step_") + suffix != name) continue;
    Shape step = mixed_step(type);
    return Found{step, false, step.page_keys};
  }
  return std::nullopt;
}

std::unique_ptr<CoreGain> gain;

std::int64_t number_of(DataType type) {
  return type == DataType::f32 ? 0 : type == DataType::bf16 ? 1 : 2;
}

}  // namespace

extern "C" {

#define KUMIKO_BENCH_API __attribute__((visibility("default")))

// A problem's fields for ctypes; `Fields` of peers.py has the same fields.
struct PeerProblem {
  std::int64_t batch, q_heads, kv_heads, q_len, kv_len, head_dim, v_head_dim;
  std::int64_t is_causal, window_left, is_decode;
  std::int64_t type;  ///< 0: f32, 1: bf16, 2: f16.
  std::int64_t bshd;  ///< Tensors are [batch][len][heads][dim].
  std::int64_t sets;
  std::int64_t page_keys;  ///< 0, or keys of a page, where keys and values are to be read from pages.
  std::int64_t tokens;     ///< 0, or the rows of packed queries: q and out are [1][q_heads][tokens][dim].
  double work;             ///< Bytes of decode, else FLOP.
  void* q;                 ///< [batch][q_heads][q_len][head_dim] or as bshd says, like the others.
  void* out;               ///< [batch][q_heads][q_len][v_head_dim]
  void* mask;              ///< Null, or [q_len][kv_len] of a byte each, 0: hidden.
  void* seqused_k;         ///< Null, or int32 per batch.
  void* cu_seqlens_q;      ///< Null, or int32[batch + 1], of packed queries.
  void* block_table;  ///< Null, or int32[batch][kv_len / page_keys]: pages of k and v as tensors of tokens.
  void* dout;         ///< Null, or the gradient of out, where the answer is dq, dk and dv.
  void* dq;           ///< Like q; dk and dv like k and v.
  void* dk;
  void* dv;
  void* impl;
};

namespace {

/// A case of backward_bench. False if there is none of that name.
bool open_gradients(const std::string& name, PeerProblem* p) {
  const auto shapes = gradient_shapes();
  const auto shape =
      std::find_if(shapes.begin(), shapes.end(), [&](const GradientShape& s) { return name == s.name; });
  Context context;
  if (shape == shapes.end() || !Context::create({}, &context).ok()) return false;
  auto problem = std::make_unique<GradientProblem>(*shape);
  if (!problem->forward(context).ok()) return false;
  const BackwardArgs& a = problem->args;
  *p = {};
  p->batch = p->sets = 1;
  p->q_heads = shape->q_heads, p->kv_heads = shape->kv_heads;
  p->q_len = p->kv_len = shape->len;
  p->head_dim = p->v_head_dim = shape->dim;
  p->is_causal = shape->is_causal, p->window_left = -1, p->type = number_of(shape->type);
  p->work = problem->flops();
  p->q = const_cast<void*>(a.forward.q.data), p->out = a.forward.out.data;
  p->dout = const_cast<void*>(a.dout.data), p->dq = a.dq.data, p->dk = a.dk.data, p->dv = a.dv.data;
  p->impl = problem.release();
  return true;
}

}  // namespace

/// Returns 0 if there is no such case.
KUMIKO_BENCH_API int kumiko_bench_open(const char* name, PeerProblem* p) {
  if (open_gradients(name, p)) return 1;
  const std::optional<Found> found = find(name);
  if (!found) return 0;
  auto* problem = new Problem(found->shape, found->is_decode ? bytes_beyond_caches() : 0);
  const Shape& s = problem->shape();
  const AttentionArgs a = problem->args(0);
  *p = {s.batch,
        s.q_heads,
        s.kv_heads,
        s.q_len,
        s.kv_len,
        s.head_dim,
        s.v_head_dim,
        s.is_causal,
        s.window_left,
        found->is_decode,
        number_of(s.type),
        s.bshd,
        problem->sets(),
        found->page_keys,
        s.cu_seqlens_q.empty() ? 0 : s.cu_seqlens_q.back(),
        found->is_decode ? problem->kv_bytes() : problem->useful_flops(),
        const_cast<void*>(a.q.data),
        a.out.data,
        const_cast<void*>(a.mask.data),
        const_cast<std::int32_t*>(a.seqused_k),
        const_cast<std::int32_t*>(a.cu_seqlens_q),
        const_cast<std::int32_t*>(a.block_table),
        nullptr,
        nullptr,
        nullptr,
        nullptr,
        problem};
  return 1;
}

KUMIKO_BENCH_API void kumiko_bench_close(PeerProblem* p) {
  if (p->dout)
    delete static_cast<GradientProblem*>(p->impl);
  else
    delete static_cast<Problem*>(p->impl);
}

/// [batch][kv_heads][kv_len][head_dim] and [...][v_head_dim] of one of the sets.
KUMIKO_BENCH_API void kumiko_bench_set(const PeerProblem* p, int set, void** k, void** v) {
  const AttentionArgs a = p->dout ? static_cast<const GradientProblem*>(p->impl)->args.forward
                                  : static_cast<const Problem*>(p->impl)->args(set);
  *k = const_cast<void*>(a.k.data);
  *v = const_cast<void*>(a.v.data);
}

KUMIKO_BENCH_API void kumiko_bench_poison(PeerProblem* p) {
  if (p->dout)
    static_cast<GradientProblem*>(p->impl)->poison();
  else
    static_cast<Problem*>(p->impl)->poison();
}

/// "" or a sentence on what is wrong with `out` as the answer over `set`; valid until the next call.
KUMIKO_BENCH_API const char* kumiko_bench_check(const PeerProblem* p, int set) {
  static std::string message;
  message = p->dout ? static_cast<GradientProblem*>(p->impl)->check(true)
                    : static_cast<const Problem*>(p->impl)->check(set);
  return message.c_str();
}

/// Writes the first `threads` allowed cores; returns how many were written.
KUMIKO_BENCH_API int kumiko_bench_cores(int threads, int* cpus) {
  const std::vector<int> cores = first_cores(threads);
  std::copy(cores.begin(), cores.end(), cpus);
  return static_cast<int>(cores.size());
}

/// 1 if this host runs `isa`.
KUMIKO_BENCH_API int kumiko_bench_runs(const char* isa) {
  const FmaRow* row = find_fma_row(isa);
  return row != nullptr && row->host_runs();
}

/// The problem's ceiling now, on the first `threads` cores, with the multiply-adds of `isa`, which the host
/// must run: FLOP/s; for decode the bytes/s of keys and values that multiply-adds or reading allow, whichever
/// is less.
KUMIKO_BENCH_API double kumiko_bench_ceiling(const PeerProblem* p, const char* isa, int threads) {
  const FmaRow& row = *find_fma_row(isa);
  if (!p->is_decode) return fma_flops(row, first_cores(threads), kFmaWindow, clock_of(threads));
  const Problem& problem = *static_cast<const Problem*>(p->impl);
  return p->work / both_ceilings(row, threads, problem.cache()).limit(problem.work());
}

/// Like CoreGain of ceilings.h: begin before the workload; end after it returns 1 if the round counts.
KUMIKO_BENCH_API void kumiko_bench_gain_begin(const char* isa, int threads) {
  gain = std::make_unique<CoreGain>(*find_fma_row(isa), threads);
  gain->begin();
}
KUMIKO_BENCH_API int kumiko_bench_gain_end(int threads) {
  return cores_there(gain->end(), threads);
}
KUMIKO_BENCH_API int kumiko_bench_gain_attempts() {
  return kGainAttempts;
}

/// 1 if calls on `threads` threads are timed in CPU time of the process; 0: in wall time.
KUMIKO_BENCH_API int kumiko_bench_on_cpu_clock(int threads) {
  return clock_of(threads) == Clock::cpu;
}

/// The rules of a measurement (rounds.h): rounds, how often a round may be repeated, the largest ratio of its
/// ceilings, and the seconds of calls in it.
KUMIKO_BENCH_API void kumiko_bench_rules(int* rounds, int* held_again, double* steady, double* window) {
  *rounds = kCallRounds;
  *held_again = kHeldAgain;
  *steady = kSteady;
  *window = kWorkWindow;
}

}  // extern "C"
}  // namespace kumiko::bench
