// SPDX-License-Identifier: Apache-2.0
// Kumiko: exact attention on CPUs, called from many threads at once.
//
//   out[b, h, i, :] = sum_j softmax_j(scale * <q[b, h, i, :], k[b, h / group, j, :]>) * v[b, h / group, j, :]
//
// over the keys j that query i may see. The scores are never stored (Dao et al., FlashAttention, 2022;
// online softmax: Milakov & Gimelshein, 2018). group = q_heads / kv_heads. A group of 1 is MHA, of q_heads
// MQA, anything between GQA.
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

/// Element type of a tensor. Results are rounded to nearest even; Precision says what sums are kept in.
enum class DataType : std::uint8_t {
  f32 = 0,
  bf16 = 1,     ///< The upper half of an f32.
  f16 = 2,      ///< IEEE 754 binary16.
  boolean = 3,  ///< One byte, 0 for false. Masks only.
  i32 = 4,      ///< 32-bit signed integer. Scores of softmax_pv only.
  i8 = 5,       ///< 8-bit signed integer. Queries and keys of attention only, as quantize_rows() makes them.
};

/// A strided view of a tensor in the logical order [batch, heads, seq, head_dim]. Strides count elements, not
/// bytes, and are not negative; the last one is 1 unless a field says otherwise. `data` must be aligned to
/// the element size, no more. A stride of 0 (an expanded dimension) is accepted for inputs.
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
  /// Unsigned, so that wrapping is defined. A shape for which this wraps has no elements or fails validation.
  static constexpr std::int64_t product(std::int64_t a, std::int64_t b) {
    return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) * static_cast<std::uint64_t>(b));
  }
};
using Tensor = View<void*>;
using ConstTensor = View<const void*>;

/// An f32 value for each query, logical [batch, q_heads, q_len]: the log-sum-exp of its scaled scores, -inf
/// where it sees no key. row_max, the scale that quantize_rows() writes, and the gradients' dlse and delta
/// have the same form. data == nullptr: not given. Strides count elements; all 0: contiguous. For packed
/// sequences {0, 1, q_heads} is [total_q, q_heads].
struct LseView {
  float* data = nullptr;
  std::array<std::int64_t, 3> stride{};
};

/// A scale for each row of an int8 tensor, f32, logical [batch, heads, seq]: the value of an element is its
/// integer times the row's scale. data == nullptr: all scales are 1. Strides count elements; along a
/// dimension with a stride of 0 all rows have the same scale, so {0, 0, 0} is one scale for the whole tensor
/// (and not contiguous scales).
struct ScaleView {
  const float* data = nullptr;
  std::array<std::int64_t, 3> stride{};
};

/// Where the causal diagonal ends when q_len != kv_len.
enum class CausalAlignment : std::uint8_t {
  bottom_right =
      0,  ///< Query i sees keys j <= i + kv_len - q_len: the last query sees every key, as decode needs.
  top_left = 1,  ///< Query i sees keys j <= i.
};

/// The order of work of one core. On one ISA every choice gives the same bits.
enum class Pipeline : std::uint8_t {
  automatic = 0,
  online = 1,       ///< Query tiles in vector lanes, packed key/value blocks, running maximum.
  decode = 2,       ///< Few query rows against row-major keys and values, bound by memory bandwidth.
  two_pass = 3,     ///< Per block of keys: the probabilities of all query tiles, then their products with V.
  interleaved = 4,  ///< Both passes in turn, the producer some tiles ahead of the consumer.
  three_pass = 5,   ///< Over many blocks: scores and maxima, then exponentials, then products with V.
};

/// What the products multiply. Sums are f32, but for int8 scores, which sum in int32, and f16 products of
/// `half`, which sum up to 128 terms in f16 (docs/numerics.md).
enum class Precision : std::uint8_t {
  automatic = 0,  ///< KUMIKO_PRECISION if set. Otherwise attention and its gradients take `half` for bf16 on
                  ///< avx512_bf16, attention takes `int8` for int8 queries and keys, all else is `standard`.
  standard = 1,   ///< f32, whatever the tensors' type.
  half = 2,       ///< The tensors' 16-bit type: bf16 pairs on avx512_bf16, f16 on sve512 and reference. No
                  ///< kernels for the ISA, the type or the call: unsupported.
  int8 = 3,  ///< q k^T of int8 queries and keys, exact in int32, and P V in f32. What `automatic` is for such
             ///< tensors; for any other unsupported.
};

/// Unit of a log-sum-exp.
enum class LseBase : std::uint8_t {
  natural = 0,  ///< log(sum_j exp(score_j))
  two = 1,      ///< The same times log2(e), as FlashInfer has it.
};

/// How a head's keys lie in their pages.
enum class KeyLayout : std::uint8_t {
  rows = 0,  ///< [page_size][head_dim], by the strides.
  /// Tiles of 16 keys, one after the other, each [head_dim][16] for f32, and [(head_dim + 1) / 2][16][2] for
  /// 16-bit types: neighbouring dims of a key side by side; of an odd head_dim the last one's neighbour is
  /// not read. Decode reads them without transposing. The same on every ISA.
  tiles_of_16 = 1,
};

/// One attention call. Every view must stay alive until the call returns; `out`, `lse` and `row_max` must not
/// overlap the inputs or each other.
struct AttentionArgs {
  ConstTensor q;  ///< [batch, q_heads, q_len, head_dim], head_dim in 1..576; f32, bf16, f16 or i8
  ConstTensor k;  ///< [batch, kv_heads, kv_len, head_dim], q_heads a multiple of kv_heads; q's type
  ConstTensor
      v;  ///< [batch, kv_heads, kv_len, v_head_dim], v_head_dim in 1..576; q's type, or with i8 any other
  Tensor out;     ///< [batch, q_heads, q_len, v_head_dim]; rows that see no key become 0; v's type or f32
  LseView lse{};  ///< optional

  float scale = 0.0f;  ///< Factor on q.k; 0 means 1 / sqrt(head_dim). Must be finite.

  bool is_causal = false;
  CausalAlignment causal_alignment = CausalAlignment::bottom_right;
  /// Sliding window: a query at key position p (its place on the causal diagonal) sees the keys in [p -
  /// window_left, p + window_right]. -1: no limit on that side. With is_causal the right limit is 0.
  std::int64_t window_left = -1;
  std::int64_t window_right = -1;

  /// Optional [batch] int32: number of keys used in each sequence, 0..kv_len. Later keys are never read, and
  /// the causal alignment uses this number for kv_len. plan() copies the values.
  const std::int32_t* seqused_k = nullptr;

  // Changes to the scaled scores, in this order. A tensor with null data and a shape of all 0 is absent.
  /// Score becomes softcap * tanh(score / softcap) (Gemma 2). 0: no softcap. Finite, not negative.
  float softcap = 0.0f;
  /// Optional [batch, q_heads, q_len, kv_len], added to the scores; f32, bf16 or f16. Any strides, the last
  /// one too; 0 broadcasts.
  ConstTensor bias{};
  /// Optional [q_heads] or, with alibi_batch_stride, [batch, q_heads]: adds -slope * |p - j| to the score of
  /// query position p and key j (ALiBi: Press, Smith & Lewis, 2022). If it is null for plan(), it is for
  /// run(), and the reverse.
  const float* alibi_slopes = nullptr;
  std::int64_t alibi_batch_stride = 0;
  /// Optional [batch, q_heads, q_len, kv_len] of booleans: 0 hides the key from the query. Any strides, the
  /// last one too; 0 broadcasts. Tiles with every key hidden are not computed.
  ConstTensor mask{};

  Pipeline pipeline = Pipeline::automatic;

  /// Optional [batch, kv_heads] int32, contiguous: the domain whose memory holds a KV head
  /// (Context::allocate), -1 for any. The policy heads_first gives the head's tasks to that domain as far as
  /// the load stays balanced. Runs of a plan do not read it, and no result depends on it.
  const std::int32_t* kv_domains = nullptr;

  // A server's step: sequences of different lengths in one call, their keys and values in pages. Below,
  // [batch] of the optional arrays above means [num_sequences], and their kv_len the keys that the longest
  // sequence can have: max_pages * page_size, or the largest difference in cu_seqlens_k, or k.shape[2].
  /// Optional [num_sequences + 1] int32, non-decreasing, the first 0: q, out and lse have batch size 1, and
  /// sequence b has their query positions [cu_seqlens_q[b], cu_seqlens_q[b + 1]). Positions after the last
  /// are neither read nor written. Rows of bias and mask are those of q. plan() copies the values.
  const std::int32_t* cu_seqlens_q = nullptr;
  /// The same for the keys of k and v. Columns of bias and mask count from a sequence's first key.
  const std::int32_t* cu_seqlens_k = nullptr;
  /// 0: the batch size of q. Must be given with cu_seqlens_q.
  std::int64_t num_sequences = 0;
  /// Optional [num_sequences, max_pages] int32, with rows block_table_stride apart (0: max_pages): key j of
  /// sequence b is row j % page_size of page block_table[b, j / page_size]. Then k is [pages, kv_heads,
  /// page_size, head_dim] and v [pages, kv_heads, page_size, v_head_dim], of any strides, page_size
  /// in 1..512, and seqused_k must be given. Only entries of pages with a key that causality and window show
  /// to some query are read, and no row past a sequence's keys. If it is null for plan(), it is for run(),
  /// and the reverse. Each run has its own pages, but sequences that shared some in plan() must share them
  /// still (Plan::update).
  const std::int32_t* block_table = nullptr;
  std::int64_t max_pages = 0;
  std::int64_t block_table_stride = 0;
  /// Optional [num_sequences + 1] int32, non-decreasing, the first 0 or more: block_table is then one list,
  /// as FlashInfer's kv_indices, and key j of sequence b is row j % page_size of page
  /// block_table[kv_indptr[b] + j / page_size]. Sequence b has kv_indptr[b + 1] - kv_indptr[b] pages: at most
  /// max_pages, and enough for the keys that its queries see. block_table_stride is 0. FlashInfer's
  /// kv_last_page_len gives seqused_k: (pages - 1) * page_size + kv_last_page_len, 0 without pages. If it is
  /// null for plan(), it is for run(), and the reverse. Each run has its own numbers of pages.
  const std::int32_t* kv_indptr = nullptr;

  /// Optional f32 [q_heads], attention sinks: exp(sinks[h]) joins the denominator of each row of head h once,
  /// as a key of that score with a value of 0 would (gpt-oss; the learnable sink of Xiao et al.,
  /// StreamingLLM, 2024, section 3). -inf: the bits are those of a call without the sink. +inf: finite values
  /// count for nothing, the output is 0. Rows that see no key stay 0. If it is null for plan(), it is for
  /// run(), and the reverse.
  const float* sinks = nullptr;
  /// Whether the LSE counts the sink, as in FlashAttention and FlashInfer: the LSE of a row that sees no key
  /// is then the sink. Of the states that merge_states() merges only one may come from a call with sinks, and
  /// the LSE of that call must count them.
  bool lse_with_sink = true;
  LseBase lse_base = LseBase::natural;  ///< merge_states() takes natural ones.

  /// Optional [batch] uint8: 1 for a sequence that is causal, 0 for one that is not, instead of is_causal.
  /// plan() copies the values.
  const std::uint8_t* causal_sequences = nullptr;
  /// Optional [batch] int32, 0 or more: every query of sequence b sees its keys before prefix_lens[b]
  /// whatever causality and window_right say (prefix LM); window_left hides them as others. plan() copies the
  /// values.
  const std::int32_t* prefix_lens = nullptr;
  /// Keys [0, window_sink_tokens) of each sequence stay visible besides the window (StreamingLLM); causality
  /// applies to them. No effect without a window. Pages between them and the window need not exist.
  std::int64_t window_sink_tokens = 0;

  // Masks in short forms, which hide keys besides causality, window and `mask`. If one is null for plan(), it
  // is for run(), and the reverse. Each run has its own.
  /// Optional bits, a row of tree_mask_stride bytes for each of batch * q_len queries (or of q's packed query
  /// positions), for a tree of speculative tokens (Miao et al., SpecInfer, 2024): the query sees key kv_len -
  /// q_len + t of its sequence if bit t % 8 of byte t / 8 is set, t in 0..q_len - 1, and all keys before
  /// these.
  const std::uint8_t* tree_mask = nullptr;
  std::int64_t tree_mask_stride = 0;  ///< Bytes; 0: (q_len of the longest sequence + 7) / 8.
  /// Optional lists of key blocks (block-sparse rows; FlashInfer's form). The queries of each sequence are
  /// blocks of bsr_rows, its keys blocks of bsr_keys, the last ones perhaps shorter. Query blocks are
  /// numbered over all sequences, n in all. Block i sees the key blocks bsr_indices[bsr_indptr[i]] to
  /// bsr_indices[bsr_indptr[i + 1] - 1] of its sequence, in ascending order. bsr_indptr: int32 [n + 1], or
  /// [q_heads, n + 1] with rows bsr_head_stride elements apart. Tiles with every key hidden are not computed.
  const std::int32_t* bsr_indptr = nullptr;
  const std::int32_t* bsr_indices = nullptr;
  std::int64_t bsr_rows = 0;
  std::int64_t bsr_keys = 0;
  std::int64_t bsr_head_stride = 0;  ///< 0: all heads have the same lists.

  /// Optional: the largest of each query's scores, [batch, q_heads, q_len], with strides of its own as `lse`.
  /// Of the scaled scores after softcap, bias, ALiBi and masks, in natural units whatever lse_base is; sinks
  /// do not count. -inf where a query sees no key, NaN where one of its scores is NaN or +inf. The sum of the
  /// softmax of the keys is exp(lse - row_max), with the lse of the keys alone. Products of f16 have none
  /// (unsupported).
  LseView row_max{};

  /// How k lies in its pages; tiles_of_16 needs block_table. k has the same shape, and in each head of a page
  /// the tiles follow one another: page_size is a multiple of 16, stride[3] is 1, stride[2] is head_dim (for
  /// 16-bit types rounded up to an even number), and stride[0] and stride[1] are at least page_size *
  /// stride[2]. v lies in rows. The result has the bits of keys in rows. All columns of a tile that holds a
  /// key in use are read; those past a sequence's keys have no effect. kv_append() and pack_key_pages() write
  /// such tiles (kv_append.h). Products of f16 take keys in rows only, int8 keys too (unsupported).
  KeyLayout key_layout = KeyLayout::rows;

  Precision precision = Precision::automatic;

  /// Optional scales of the rows of q and k, whose type is then i8, with the first three dimensions of q and
  /// of k: for keys in pages [pages, kv_heads, page_size]. An output row whose query or any of whose keys has
  /// a scale that is not finite becomes NaN.
  ScaleView q_scale{};
  ScaleView k_scale{};
};

/// Softmax of scores that were computed elsewhere, times V: out = softmax(scale * scores) v. `out` and `lse`
/// must not overlap the inputs or each other.
struct SoftmaxPvArgs {
  ConstTensor scores;  ///< [batch, q_heads, q_len, kv_len]; f32 or i32 (rounded to f32, exact up to 2^24)
  ConstTensor v;  ///< [batch, kv_heads, kv_len, v_head_dim], q_heads a multiple of kv_heads; f32, bf16 or f16
  Tensor out;     ///< [batch, q_heads, q_len, v_head_dim]; rows that see no key become 0; v's type or f32
  LseView lse{};  ///< optional; natural logarithm

  float scale = 1.0f;  ///< Factor on the scores, such as the scale of a quantised product. Must be finite.
  // As in AttentionArgs. A score of -inf hides its key as well, unless that key's value is not finite.
  bool is_causal = false;
  CausalAlignment causal_alignment = CausalAlignment::bottom_right;
  std::int64_t window_left = -1;
  std::int64_t window_right = -1;
  const std::int32_t* seqused_k = nullptr;
  Pipeline pipeline = Pipeline::automatic;  ///< Any but decode.
  Precision precision = Precision::automatic;
};

/// Two products without a softmax (linear attention): out = (scale * q k^T) v. The scores are never stored.
/// `out` must not overlap the inputs.
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
  Precision precision = Precision::automatic;
};

/// The result of attention over some of the keys: normalised output and log-sum-exp.
struct AttentionState {
  ConstTensor out;                           ///< [batch, q_heads, q_len, v_head_dim]; f32, bf16 or f16
  const float* lse = nullptr;                ///< [batch, q_heads, q_len], natural logarithm
  std::array<std::int64_t, 3> lse_stride{};  ///< All 0: contiguous.
};

/// Settings of a Context. A field at its default takes the value of the environment variable named beside it;
/// if that is unset too, the machine decides (docs/environment.md).
struct ContextOptions {
  int num_threads = 0;   ///< KUMIKO_NUM_THREADS. Default: allowed cores, bounded by the cgroup CPU quota.
  std::string cpus;      ///< KUMIKO_CPUS: OS CPU numbers the runtime may use, "0-11,24-35".
  std::string bind;      ///< KUMIKO_BIND: close | spread | none.
  std::string executor;  ///< KUMIKO_EXECUTOR: openmp | tbb | serial.
  std::string isa;  ///< KUMIKO_ISA: avx512_bf16 | avx512 | avx2 | sve512 | neon | reference. One the machine
                    ///< lacks is an error.
  std::string topology;  ///< KUMIKO_TOPOLOGY: hwloc synthetic description or XML file to plan for.
  std::string policy;    ///< KUMIKO_POLICY: heads_first | flat.
  std::string trace;     ///< KUMIKO_TRACE: file for a timeline of every core, in Perfetto's JSON.
  std::string tuning;    ///< KUMIKO_TUNING: file that kumiko-tune wrote. No bit of a result depends on it.
};

/// Instead of a domain's number: a part of the memory on each domain (Context::allocate).
inline constexpr int kEachDomain = -1;

/// Zeroed memory on the NUMA node of one domain, or of each in turn, for data that its cores read again and
/// again, such as a server's keys and values. Its pages hold nothing else. Move-only; may outlive its
/// context.
class KUMIKO_API DomainMemory {
 public:
  DomainMemory() = default;
  DomainMemory(DomainMemory&& other) noexcept;
  DomainMemory& operator=(DomainMemory&& other) noexcept;
  ~DomainMemory();

  void* data() const { return data_; }
  std::int64_t size() const { return size_; }  ///< Bytes, as requested.
  int domain() const { return domain_; }       ///< kEachDomain: a part on each.
  /// false: the memory could not be placed (Context::describe() says why); each page goes to the node of the
  /// thread that first writes to it.
  bool is_placed() const { return is_placed_; }

  /// Gives the memory to the caller, who frees it by free(pointer, bytes), `bytes` being size() before
  /// release().
  void* release() noexcept;
  static void free(void* data, std::int64_t bytes) noexcept;

 private:
  friend class Context;
  void* data_ = nullptr;
  std::int64_t size_ = 0;
  int domain_ = -1;
  bool is_placed_ = false;
};

/// A runtime: its threads, domains and workspaces. Create one per process and share it: every method may be
/// called from any number of threads at once. Copies share the same runtime. In a forked child every call
/// with a context or plan of the parent that returns a Status is an error, unsupported.
class KUMIKO_API Context {
 public:
  Context() = default;
  /// True for copies of one context and for two empty ones.
  friend bool operator==(const Context&, const Context&) = default;
  /// Errors: invalid_argument or invalid_environment (a value that does not parse), unsupported (a forced
  /// choice that is not available), out_of_memory. `*context` is untouched on error.
  static Status create(const ContextOptions& options, Context* context);

  explicit operator bool() const { return impl_ != nullptr; }
  int num_threads() const;
  std::string isa() const;
  /// Domains, cores, executor, ISA and the limits that apply: one fact per line.
  std::string describe() const;
  /// Writes the trace so far. It is also written when the last copy of the context is destroyed and when the
  /// process ends. The whole file is replaced. Errors: invalid_argument (no trace was asked for), unsupported
  /// (the file cannot be written).
  Status write_trace() const;

  /// A domain is a set of cores that share a NUMA node and a last-level cache. Domains are numbered from 0,
  /// as in describe() and Plan::explain().
  int num_domains() const;
  /// Memory for the keys and values of KV heads that `domain` is to read. With kEachDomain it is one range of
  /// num_domains() equal parts, part d on domain d's node, for a pool of pages of which the first ones belong
  /// to domain 0, the next ones to domain 1, and so on; each part must be whole pages of the machine's
  /// memory. Errors: invalid_argument (no such domain, `bytes` below 1 or not whole pages for each),
  /// out_of_memory; `*memory` is untouched on error.
  Status allocate(int domain, std::int64_t bytes, DomainMemory* memory) const;

  struct Impl;

 private:
  friend struct Internals;  // of the library
  std::shared_ptr<Impl> impl_;
};

/// What the cores and domains of a machine sustain, for the plan's cost model.
struct MachineRates {
  double core_flops = 0;        ///< FLOP/s of one core in the pipeline's products and exponentials.
  double core_bandwidth = 0;    ///< Bytes/s that one core reads while the others are idle.
  double domain_bandwidth = 0;  ///< Bytes/s that all cores of a domain read together.
  double start_seconds = 0;     ///< To wake the threads and wait for the last one, once per run.
};
struct Prediction {
  double seconds = 0;  ///< One run: start_seconds and the time of the busiest core.
  double attainable_seconds =
      0;  ///< The same work in equal parts, no core idle: no order of tasks is faster.
};

/// A call prepared once and run many times. Shapes, strides, causality and windows are fixed; pointers may
/// change from run to run, and lengths by update(). Several threads may run one plan at once. Copies share
/// the same plan; a plan keeps its context alive.
class KUMIKO_API Plan {
 public:
  Plan() = default;
  explicit operator bool() const { return impl_ != nullptr; }

  /// Runs on the pointers of `args` and the strides of its lse and row_max; every other field, and the values
  /// of seqused_k, must be as planned. Allocates only if more runs overlap in time than ever before. Errors:
  /// invalid_argument (not the planned problem), unsupported (row_max of products of f16), out_of_memory.
  Status run(const AttentionArgs& args) const;
  /// Sets the used lengths, [batch], of later runs, as each decode step changes them; the plan must have been
  /// made with seqused_k. The plan is cut again only if a row block begins or ends in another block of 512
  /// keys. plan() has taken all memory that any lengths need, except split states where those of the longest
  /// sequences would be over 16 MB: then an update allocates if it needs more of them than any before. It
  /// also allocates in a context that traces, and where sequences share pages. Results are those of a new
  /// plan. No run of the plan or of a copy may be in progress; one submitted to a stream that has not ended
  /// is an error. Errors: invalid_argument, unsupported, out_of_memory; on an error nothing changes.
  ///
  /// plan() finds sequences whose block tables begin with the same pages, and run() reads these once for all
  /// of them; a run whose table no longer has them in common is refused. With block_table, of the planned
  /// shape and for the new lengths, update() finds them anew: do so when one sequence replaces another. Null:
  /// they stay. kv_indptr is given with block_table if the plan was made with it, and otherwise null.
  Status update(std::span<const std::int32_t> seqused_k, const std::int32_t* block_table = nullptr,
                const std::int32_t* kv_indptr = nullptr);
  /// Pipeline, blocks, tasks per domain, predicted imbalance, workspace bytes: one fact per line.
  std::string explain() const;
  /// The time of a run on a machine of these rates with this context's threads and domains. A task takes the
  /// longer of its arithmetic and its reading of K and V. It reads from its domain's memory, whose bandwidth
  /// the domain's threads share equally. 0 seconds if a rate of FLOP/s or bytes/s is not positive and finite.
  Prediction predict(const MachineRates& rates) const;
  /// Bytes of workspace one run uses: per-core scratch of all cores plus split-KV partial results.
  std::int64_t workspace_bytes() const;

  struct Impl;

 private:
  friend struct Internals;
  std::shared_ptr<Impl> impl_;
};

/// Makes a plan for `args`, whose data pointers may still be null. Errors: invalid_argument, unsupported,
/// out_of_memory; `*plan` is untouched on error.
KUMIKO_API Status plan(const Context& context, const AttentionArgs& args, Plan* plan);

/// plan() and run() in one. If validation fails, nothing is written.
KUMIKO_API Status attention_forward(const Context& context, const AttentionArgs& args);

/// The same on a process-wide context, made from the environment at the first call (and in a forked child at
/// its first one).
KUMIKO_API Status attention_forward(const AttentionArgs& args);

/// softmax(scale * scores) v on the threads of `context`. The bits of a row depend only on its scores, V and
/// the ISA. Errors: invalid_argument, unsupported (a forced pipeline that takes no precomputed scores),
/// out_of_memory.
KUMIKO_API Status softmax_pv(const Context& context, const SoftmaxPvArgs& args);

/// (scale * q k^T) v on the threads of `context`, in memory that does not grow with q_len * kv_len. The bits
/// of a row depend only on q's row, K, V and the ISA. Errors: invalid_argument, unsupported, out_of_memory.
KUMIKO_API Status fused_gemm(const Context& context, const FusedGemmArgs& args);

/// Merges attention over disjoint sets of keys into attention over all of them, in the order given:
/// lse = log(sum_n exp(lse_n)), out = sum_n exp(lse_n - lse) * out_n (Liu et al., Ring Attention, 2023,
/// section 3; Milakov & Gimelshein, 2018). A state whose LSE is -inf saw no key and is skipped, whatever its
/// output. All outputs have the same shape; the states' outputs have the same type, and `out` that type or
/// f32. `out` and `lse` may be those of a state; otherwise they must not overlap an input. Errors:
/// invalid_argument, unsupported (more rows than 2^32), out_of_memory.
KUMIKO_API Status merge_states(const Context& context, std::span<const AttentionState> states,
                               const Tensor& out, const LseView& lse = {});

/// Rounds each row of x to int8 with a scale of its own, as attention takes queries and keys: scale = the
/// row's largest magnitude / 127, out = x / scale rounded to nearest even, -127..127 (docs/numerics.md). What
/// a row becomes depends on that row alone. `x`: [batch, heads, seq, dim], f32, bf16 or f16; `out`: i8, of
/// the same shape; `scale`: f32, [batch, heads, seq], must be given. Neither may overlap x or the other.
/// Errors: invalid_argument, unsupported (more rows than 2^34), out_of_memory.
KUMIKO_API Status quantize_rows(const Context& context, const ConstTensor& x, const Tensor& out,
                                const LseView& scale);

}  // namespace kumiko
