// The problems and ceilings of attention_bench for another language: bench/peers.py loads this as a shared
// library, so that a peer computes on the same bytes, is checked by the same fp64 computation and is judged
// against the same ceilings.
#include <algorithm>
#include <string>
#include <vector>

#include "bench/ceilings.h"
#include "bench/machine_peak.h"
#include "bench/rounds.h"
#include "bench/shapes.h"

namespace kumiko::bench {
namespace {

const Case* find_case(const std::string& name) {
  for (const Case& c : cases()) {
    if (c.shape.name == name) return &c;
  }
  return nullptr;
}

}  // namespace

extern "C" {

#define KUMIKO_BENCH_API __attribute__((visibility("default")))

// What ctypes needs to know of a problem; `Fields` of peers.py has the same fields.
struct PeerProblem {
  std::int64_t batch, q_heads, kv_heads, q_len, kv_len, head_dim, v_head_dim;
  std::int64_t is_causal, window_left, by_bandwidth;
  std::int64_t type;  ///< 0: f32, 1: bf16, 2: f16.
  std::int64_t sets;
  double work;      ///< Bytes with by_bandwidth, else FLOP.
  void* q;          ///< [batch][q_heads][q_len][head_dim]
  void* out;        ///< [batch][q_heads][q_len][v_head_dim]
  void* mask;       ///< Null, or [q_len][kv_len] of a byte each, 0: hidden.
  void* seqused_k;  ///< Null, or int32 per batch.
  void* impl;
};

/// 0: there is no such case. The problem stays to the end of the process.
KUMIKO_BENCH_API int kumiko_bench_open(const char* name, PeerProblem* p) {
  const Case* c = find_case(name);
  if (c == nullptr) return 0;
  const Shape& s = c->shape;
  auto* problem = new Problem(s);
  const AttentionArgs a = problem->args(0);
  const bool by_bandwidth = c->limit == Limit::bandwidth;
  *p = {s.batch,
        s.q_heads,
        s.kv_heads,
        s.q_len,
        s.kv_len,
        s.head_dim,
        s.v_head_dim,
        s.is_causal,
        s.window_left,
        by_bandwidth,
        s.type == DataType::f32    ? 0
        : s.type == DataType::bf16 ? 1
                                   : 2,
        by_bandwidth ? problem->sets() : 1,
        by_bandwidth ? problem->kv_bytes() : problem->useful_flops(),
        const_cast<void*>(a.q.data),
        a.out.data,
        const_cast<void*>(a.mask.data),
        const_cast<std::int32_t*>(a.seqused_k),
        problem};
  return 1;
}

/// [batch][kv_heads][kv_len][head_dim] and [...][v_head_dim] of one of the sets.
KUMIKO_BENCH_API void kumiko_bench_set(const PeerProblem* p, int set, void** k, void** v) {
  const AttentionArgs a = static_cast<const Problem*>(p->impl)->args(set);
  *k = const_cast<void*>(a.k.data);
  *v = const_cast<void*>(a.v.data);
}

KUMIKO_BENCH_API void kumiko_bench_poison(PeerProblem* p) {
  static_cast<Problem*>(p->impl)->poison();
}

/// "" or a sentence on what is wrong with `out` as the answer over `set`; valid until the next call.
KUMIKO_BENCH_API const char* kumiko_bench_check(const PeerProblem* p, int set) {
  static std::string message;
  message = static_cast<const Problem*>(p->impl)->check(set);
  return message.c_str();
}

/// The first `threads` allowed cores; how many were written.
KUMIKO_BENCH_API int kumiko_bench_cores(int threads, int* cpus) {
  const std::vector<int> cores = first_cores(threads);
  std::copy(cores.begin(), cores.end(), cpus);
  return static_cast<int>(cores.size());
}

/// The ceiling on those cores now: FLOP/s of `isa`, or bytes/s read. 0: the host does not run `isa`.
KUMIKO_BENCH_API double kumiko_bench_ceiling(const char* isa, int threads, int by_bandwidth) {
  if (by_bandwidth) return read_ceiling(threads).bytes_per_second(kReadWindow);
  const FmaRow* row = find_fma_row(isa);
  return row != nullptr && row->host_runs() ? fma_flops(*row, first_cores(threads), kFmaWindow) : 0;
}

}  // extern "C"
}  // namespace kumiko::bench
