// SPDX-License-Identifier: Apache-2.0
// Kumiko: exact attention on CPUs, called from many threads at once.
//
//   out[b, h, i, :] = sum_j softmax_j(scale * <q[b, h, i, :], k[b, h / group, j, :]>) * v[b, h / group, j, :]
//
// over the keys j that query i may see. The scores are never stored (Dao et al., FlashAttention, 2022;
// online softmax: Milakov & Gimelshein, 2018). group = q_heads / kv_heads: 1 is MHA, q_heads is MQA, between
// is GQA.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "status.h"

#if defined(__GNUC__)
#define KUMIKO_API __attribute__((visibility("default")))
#else
#define KUMIKO_API
#endif

namespace kumiko {

/// Element type of a tensor. Accumulation is always f32; results are rounded to nearest even.
enum class DataType : std::uint8_t {
  f32 = 0,
  bf16 = 1,     ///< The upper half of an f32.
  f16 = 2,      ///< IEEE 754 binary16.
  boolean = 3,  ///< One byte: 0 or not. Of masks only.
  i32 = 4,      ///< 32-bit signed integers. Of the scores of softmax_pv only.
};

/// A strided view of a tensor in the logical order [batch, heads, seq, head_dim]. Strides count elements, not
/// bytes; the last one is 1. Any base alignment is accepted. A stride of 0 (an expanded dimension) is
/// accepted for inputs.
template <class Pointer>
struct View {
  Pointer data = nullptr;
  std::array<std::int64_t, 4> shape{};
  std::array<std::int64_t, 4> stride{};
  DataType dtype = DataType::f32;

  /// Contiguous memory laid out [batch, heads, seq, head_dim].
  static constexpr View bhsd(Pointer data, std::int64_t batch, std::int64_t heads, std::int64_t seq,
                             std::int64_t dim, DataType type = DataType::f32) {
    return {
        data, {batch, heads, seq, dim}, {product(product(heads, seq), dim), product(seq, dim), dim, 1}, type};
  }
  /// Contiguous memory laid out [batch, seq, heads, head_dim].
  static constexpr View bshd(Pointer data, std::int64_t batch, std::int64_t seq, std::int64_t heads,
                             std::int64_t dim, DataType type = DataType::f32) {
    return {data,
            {batch, heads, seq, dim},
            {product(product(seq, heads), dim), dim, product(heads, dim), 1},
            type};
  }

 private:
  /// Unsigned: validation, not this, judges absurd shapes. It refuses the shapes for which this wraps, or
  /// they have no elements.
  static constexpr std::int64_t product(std::int64_t a, std::int64_t b) {
    return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) * static_cast<std::uint64_t>(b));
  }
};
using Tensor = View<void*>;
using ConstTensor = View<const void*>;

/// Log-sum-exp of each query's scaled scores, natural logarithm, f32, logical [batch, q_heads, q_len]. -inf
/// where a query sees nothing. data == nullptr: not wanted. All strides 0: contiguous.
struct LseView {
  float* data = nullptr;
  std::array<std::int64_t, 3> stride{};
};

/// Where the causal diagonal ends when q_len != kv_len.
enum class CausalAlignment : std::uint8_t {
  bottom_right =
      0,  ///< Query i sees keys j <= i + kv_len - q_len: the last query sees every key. What decode needs.
  top_left = 1,  ///< Query i sees keys j <= i.
};

/// How one core walks over the keys. Every choice gives the same bits per ISA.
enum class Pipeline : std::uint8_t {
  automatic = 0,
  online = 1,       ///< Query tiles in vector lanes, packed key/value blocks, running maximum.
  decode = 2,       ///< Few query rows against row-major keys and values, bound by memory bandwidth.
  two_pass = 3,     ///< Per block of keys: the probabilities of all query tiles, then their products with V.
  interleaved = 4,  ///< The two passes in turns, a producer some tiles ahead of a consumer.
  three_pass = 5,   ///< Scores and maxima of many blocks, their exponentials, then products with V alone.
};

/// One attention call. Every view must stay alive until the call returns; `out` and `lse` may not overlap the
/// inputs or each other.
struct AttentionArgs {
  ConstTensor q;  ///< [batch, q_heads, q_len, head_dim], head_dim in 1..576; f32, bf16 or f16
  ConstTensor k;  ///< [batch, kv_heads, kv_len, head_dim], q_heads a multiple of kv_heads; q's type
  ConstTensor v;  ///< [batch, kv_heads, kv_len, v_head_dim], v_head_dim in 1..576; q's type
  Tensor out;     ///< [batch, q_heads, q_len, v_head_dim]; rows that see nothing become 0; q's type or f32
  LseView lse{};  ///< optional

  float scale = 0.0f;  ///< Factor on q.k; 0 means 1 / sqrt(head_dim). Must be finite.

  bool is_causal = false;
  CausalAlignment causal_alignment = CausalAlignment::bottom_right;
  /// Sliding window: query at position p (its place on the causal diagonal) sees keys in [p - window_left, p
  /// + window_right]. -1: unlimited on that side. is_causal limits the right side to 0.
  std::int64_t window_left = -1;
  std::int64_t window_right = -1;

  /// Optional [batch] int32: keys used of each sequence, 0..kv_len. Keys past it are never read; it takes
  /// kv_len's place in the causal alignment. plan() copies the values.
  const std::int32_t* seqused_k = nullptr;

  // What changes the scaled scores, in this order. A tensor of shape all 0 is none.
  /// Score becomes softcap * tanh(score / softcap) (Gemma 2). 0: none. Finite, not negative.
  float softcap = 0.0f;
  /// Optional [batch, q_heads, q_len, kv_len], added; f32, bf16 or f16. Any strides, 0 broadcasts.
  ConstTensor bias{};
  /// Optional [q_heads] or, with alibi_batch_stride, [batch, q_heads]: adds -slope * |p - j| to query
  /// position p and key j (ALiBi: Press, Smith & Lewis, 2022). Not null when planned and when run, or both
  /// times null.
  const float* alibi_slopes = nullptr;
  std::int64_t alibi_batch_stride = 0;
  /// Optional [batch, q_heads, q_len, kv_len] of booleans: 0 hides the key from the query. Any strides, 0
  /// broadcasts. Tiles that are hidden altogether are not computed.
  ConstTensor mask{};

  Pipeline pipeline = Pipeline::automatic;

  /// Optional [batch, kv_heads]: the domain in whose memory a KV head lies (Context::allocate), -1 where it
  /// is all the same. Under the policy heads_first its tasks go to that domain while the balance allows it.
  /// Only plan() reads it, and no result depends on it.
  const std::int32_t* kv_domains = nullptr;
};

/// Softmax of scores that were computed elsewhere, times V: out = softmax(scale * scores) v. `out` and `lse`
/// may not overlap the inputs or each other.
struct SoftmaxPvArgs {
  ConstTensor scores;  ///< [batch, q_heads, q_len, kv_len]; f32 or i32 (rounded to f32, exact up to 2^24)
  ConstTensor v;  ///< [batch, kv_heads, kv_len, v_head_dim], q_heads a multiple of kv_heads; f32, bf16 or f16
  Tensor out;     ///< [batch, q_heads, q_len, v_head_dim]; rows that see nothing become 0; v's type or f32
  LseView lse{};  ///< optional

  float scale = 1.0f;  ///< Factor on the scores, such as that of a quantised product. Must be finite.
  // As in AttentionArgs. A score of -inf hides its key, too, unless the value there is not finite.
  bool is_causal = false;
  CausalAlignment causal_alignment = CausalAlignment::bottom_right;
  std::int64_t window_left = -1;
  std::int64_t window_right = -1;
  const std::int32_t* seqused_k = nullptr;
  Pipeline pipeline = Pipeline::automatic;  ///< Any but decode.
};

/// Two products without a softmax, the scores never stored: out = (scale * q k^T) v, a linear attention.
/// `out` may not overlap the inputs.
struct FusedGemmArgs {
  ConstTensor q;  ///< [batch, q_heads, q_len, head_dim], head_dim in 1..576; f32, bf16 or f16
  ConstTensor k;  ///< [batch, kv_heads, kv_len, head_dim], q_heads a multiple of kv_heads; q's type
  ConstTensor v;  ///< [batch, kv_heads, kv_len, v_head_dim], v_head_dim in 1..576; q's type
  Tensor out;     ///< [batch, q_heads, q_len, v_head_dim]; q's type or f32

  float scale = 1.0f;  ///< Factor on q.k. Must be finite.
  // As in AttentionArgs: a key that a query does not see adds nothing.
  bool is_causal = false;
  CausalAlignment causal_alignment = CausalAlignment::bottom_right;
  std::int64_t window_left = -1;
  std::int64_t window_right = -1;
  const std::int32_t* seqused_k = nullptr;
};

/// The result of attention over some of the keys: normalised output and log-sum-exp.
struct AttentionState {
  ConstTensor out;                           ///< [batch, q_heads, q_len, v_head_dim]; f32, bf16 or f16
  const float* lse = nullptr;                ///< [batch, q_heads, q_len], natural logarithm
  std::array<std::int64_t, 3> lse_stride{};  ///< All 0: contiguous.
};

/// What a Context is made with. A field left at its default takes the value of the environment variable named
/// beside it, and where that is unset too, what the machine offers (docs/environment.md).
struct ContextOptions {
  int num_threads = 0;   ///< KUMIKO_NUM_THREADS. Default: allowed cores, bounded by the cgroup CPU quota.
  std::string cpus;      ///< KUMIKO_CPUS: OS CPU numbers the runtime may use, "0-11,24-35".
  std::string bind;      ///< KUMIKO_BIND: close | spread | none.
  std::string executor;  ///< KUMIKO_EXECUTOR: openmp | tbb | serial.
  std::string isa;  ///< KUMIKO_ISA: avx512_bf16 | avx512 | avx2 | sve512 | neon | reference. One the machine
                    ///< lacks is an error.
  std::string topology;  ///< KUMIKO_TOPOLOGY: hwloc synthetic description or XML file to plan for.
  std::string policy;    ///< KUMIKO_POLICY: heads_first | flat.
  std::string trace;     ///< KUMIKO_TRACE: file for what each core did when, in Perfetto's JSON.
  std::string tuning;    ///< KUMIKO_TUNING: file that kumiko-tune wrote. No bit of a result depends on it.
};

/// Zeroed memory on the NUMA node of one domain, for what that domain's cores are to read again and again: a
/// server's keys and values. Whole pages that nothing else is on. Move-only; outlives its context.
class KUMIKO_API DomainMemory {
 public:
  DomainMemory() = default;
  DomainMemory(DomainMemory&& other) noexcept;
  DomainMemory& operator=(DomainMemory&& other) noexcept;
  ~DomainMemory();

  void* data() const { return data_; }
  std::int64_t size() const { return size_; }  ///< As asked for.
  int domain() const { return domain_; }
  /// false: nothing could be placed here (Context::describe() says why), and each page goes to the node of
  /// the thread that first writes to it.
  bool is_placed() const { return is_placed_; }

  /// Gives the memory up: the caller now owns it and calls free() with it and with its size().
  void* release() noexcept;
  static void free(void* data, std::int64_t bytes) noexcept;

 private:
  friend class Context;
  void* data_ = nullptr;
  std::int64_t size_ = 0;
  int domain_ = -1;
  bool is_placed_ = false;
};

/// The machine as one runtime uses it: threads, domains, workspaces. Create one per process and share it:
/// every method may be called from any number of threads at once. Copies share the same runtime.
class KUMIKO_API Context {
 public:
  Context() = default;
  /// The same runtime: copies of one another, or both empty.
  friend bool operator==(const Context&, const Context&) = default;
  /// Errors: invalid_argument or invalid_environment (a value that does not parse), unsupported (a forced
  /// choice that cannot be had), out_of_memory. `*context` is untouched on error.
  static Status create(const ContextOptions& options, Context* context);

  explicit operator bool() const { return impl_ != nullptr; }
  int num_threads() const;
  std::string isa() const;
  /// Domains, cores, executor, ISA, limits that were met: one fact a line.
  std::string describe() const;
  /// Writes the trace until now; else that happens when the last copy of the context goes and when the
  /// process ends. The file is replaced as a whole. Errors: invalid_argument (no trace was asked for),
  /// unsupported (the file cannot be written).
  Status write_trace() const;

  /// A domain is a set of cores that share a NUMA node and a last-level cache; they are numbered from 0 as in
  /// describe() and Plan::explain().
  int num_domains() const;
  /// Memory for the keys and values of KV heads that `domain` is to read. Errors: invalid_argument,
  /// out_of_memory; `*memory` is untouched on error.
  Status allocate(int domain, std::int64_t bytes, DomainMemory* memory) const;

  struct Impl;

 private:
  friend struct Internals;  // of the library
  std::shared_ptr<Impl> impl_;
};

/// A machine as the plan's cost model sees it: what its cores and domains sustain.
struct MachineRates {
  double core_flops = 0;        ///< FLOP/s of one core in the pipeline's products and exponentials.
  double core_bandwidth = 0;    ///< Bytes/s one core reads while the others rest.
  double domain_bandwidth = 0;  ///< Bytes/s all cores of a domain read together.
  double start_seconds = 0;     ///< Waking the threads and meeting at the end, once a run.
};
struct Prediction {
  double seconds = 0;  ///< A run, the busiest core's time.
  double attainable_seconds =
      0;  ///< The same work in equal parts, nobody waiting: no order of tasks is faster.
};

/// A call prepared once and run many times: shapes, strides and mask are fixed, pointers are not, and lengths
/// change by update(). Thread-safe but for that: one plan may be run by several threads at once. Copies share
/// the same plan; a plan keeps its context alive.
class KUMIKO_API Plan {
 public:
  Plan() = default;
  explicit operator bool() const { return impl_ != nullptr; }

  /// Runs on the pointers of `args`; everything else in it must equal what was planned. Allocates nothing
  /// once as many calls have run as ever run at the same time. Errors: invalid_argument (not the planned
  /// problem), out_of_memory.
  Status run(const AttentionArgs& args) const;
  /// Other used lengths, [batch], from the next run on, for a plan that was made with seqused_k; what a
  /// decode step changes. Nothing is cut anew, nor allocated, while every row block begins and ends in the
  /// same 512 keys; memory is allocated only where a new cut needs more than any before. Results are those of
  /// a new plan. No run of the plan or a copy of it may be under way. Errors: invalid_argument, unsupported,
  /// out_of_memory; nothing has changed then.
  Status update(std::span<const std::int32_t> seqused_k);
  /// Pipeline, blocks, tasks per domain, predicted imbalance, workspace bytes: one fact a line.
  std::string explain() const;
  /// The plan on a machine of these rates with this context's threads and domains. A task takes the longer of
  /// its arithmetic and its reading of K and V, all of it from its domain's memory, of which each of the
  /// domain's threads gets an equal part. Rates that are not positive: 0 seconds.
  Prediction predict(const MachineRates& rates) const;
  /// Bytes of workspace one run uses: per-core scratch of all cores plus split-KV partial results.
  std::int64_t workspace_bytes() const;

  struct Impl;

 private:
  friend struct Internals;
  std::shared_ptr<Impl> impl_;
};

/// Prepares `args` (pointers may be null at this point). Errors: invalid_argument, unsupported,
/// out_of_memory; `*plan` is untouched on error.
KUMIKO_API Status plan(const Context& context, const AttentionArgs& args, Plan* plan);

/// plan() and run() in one. On an error that validation can see nothing has been written.
KUMIKO_API Status attention_forward(const Context& context, const AttentionArgs& args);

/// The same on a process-wide context made from the environment at the first call.
KUMIKO_API Status attention_forward(const AttentionArgs& args);

/// softmax(scale * scores) v on the threads of `context`. The bits of a row depend on nothing but its scores,
/// V and the ISA. Errors: invalid_argument, unsupported (a forced pipeline that takes no precomputed scores),
/// out_of_memory.
KUMIKO_API Status softmax_pv(const Context& context, const SoftmaxPvArgs& args);

/// (scale * q k^T) v on the threads of `context`, in memory that does not grow with q_len * kv_len. The bits
/// of a row depend on nothing but q's row, K, V and the ISA. Errors: invalid_argument, unsupported,
/// out_of_memory.
KUMIKO_API Status fused_gemm(const Context& context, const FusedGemmArgs& args);

/// Merges attention over disjoint sets of keys into attention over their union, in the order given:
/// lse = log(sum_n exp(lse_n)), out = sum_n exp(lse_n - lse) * out_n (Liu et al., Ring Attention, 2023,
/// section 3; Milakov & Gimelshein, 2018). A state whose LSE is -inf saw nothing and is passed over, whatever
/// its output. All outputs have one shape; the states' outputs have one type, `out` that or f32. `out` and
/// `lse` may be those of a state, else they overlap no input. Errors: invalid_argument, out_of_memory.
KUMIKO_API Status merge_states(const Context& context, std::span<const AttentionState> states,
                               const Tensor& out, const LseView& lse = {});

}  // namespace kumiko
