// SPDX-License-Identifier: Apache-2.0
// The tasks of one attention problem, who takes them, and the memory of its runs.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/pipelines/pipeline.h"
#include "runtime/attention.h"
#include "runtime/context.h"
#include "runtime/tuning.h"
#include "scheduler/memory.h"
#include "scheduler/policy.h"

namespace kumiko {

/// What a plan computes. The last two come from calls of their own and keep their scale as given.
enum class Computation { attention, softmax_pv, fused_gemm };

/// Rows [row_begin, row_end) of one KV head of one sequence over splits [split_begin, split_end).
struct PlannedTask {
  std::int32_t batch, kv_head;
  std::int64_t row_begin, row_end;
  std::int64_t split_begin, split_end;
  std::int32_t merge =
      -1;  ///< Index into Plan::Impl::merges when the rows' splits are shared by several tasks.
};

/// Rows whose splits several tasks computed; the last of these tasks merges them.
struct PlannedMerge {
  std::int32_t tasks;
  std::int64_t split_begin, split_end;
  std::int64_t row_begin, row_end;
  std::int64_t partial_offset;  ///< Floats into its domain's RunState::partials: states of
                                ///< these splits of these rows.
  std::int32_t domain = 0;      ///< That of its tasks, by the assignment; of the first where they differ.
};

/// Memory of one run in flight. Recycled by the plan.
struct RunState {
  std::unique_ptr<std::atomic<std::int32_t>[]> pending;  ///< [merges] tasks still to come
  std::vector<float*> partials;  ///< [domains] the split states that the domain's cores write
  // Where they are: on the domain's node if there are several, else anywhere.
  std::vector<scheduler::Arena> arenas;
  std::unique_ptr<float[]> heap;
  RunState* next = nullptr;
};

struct [[gnu::visibility("hidden")]] Plan::Impl {
  std::shared_ptr<Context::Impl> context;
  Computation computation = Computation::attention;
  ConstTensor scores{};  ///< softmax_pv: instead of args.q and args.k, which are shapes only
  AttentionArgs args;    ///< As planned, pointers cleared.
  bool has_seqused_k = false;
  bool has_alibi = false;
  std::vector<std::int32_t> seqused_k;   ///< [batch] if has_seqused_k
  std::vector<std::int32_t> kv_domains;  ///< [batch * kv_heads], or empty
  kernels::KernelSet kernels{};          ///< for the planned element types; max_nr as tuned
  float q_scale = 0.0f;                  ///< see HeadProblem
  float softcap_log2 = 0.0f;
  Tuning tuning{};
  std::vector<PlannedTask> tasks;
  std::vector<scheduler::Task> costs;  ///< [tasks], as the policy saw them, in cost_unit FMAs
  std::vector<PlannedMerge> merges;
  double cost_unit = 1;  ///< Costs were divided by this power of two, so that their sum fits.
  std::int64_t partial_floats = 0;
  std::vector<std::int64_t> domain_floats;  ///< [domains] its share of partial_floats
  std::size_t scratch_bytes = 0;
  scheduler::Assignment assignment;
  std::vector<std::int32_t> home;  ///< Traffic::home; of traced contexts only

  ~Impl();
  /// The problem of one KV head, without pointers' offsets applied to strides: data pointers come from
  /// `args`.
  kernels::HeadProblem head(const AttentionArgs& run_args, std::int64_t batch, std::int64_t kv_head) const;
  RunState* acquire();  ///< Throws std::bad_alloc.
  void release(RunState * state) noexcept;
  std::string explain() const;
  Prediction predict(const MachineRates& rates) const;
  std::int64_t workspace_bytes() const;

 private:
  std::unique_ptr<RunState> make_state() const;
  /// Softcap, bias, ALiBi and mask of the query heads from first_head on.
  void set_terms(kernels::HeadProblem & head, const AttentionArgs& run_args, std::int64_t batch,
                 std::int64_t first_head) const;
  std::mutex mutex_;
  RunState* idle_ = nullptr;
};

/// Fills everything from `args`, which are valid. Errors: unsupported (more tasks than kMaxTasks),
/// out_of_memory (split states that no address space holds).
Status build_plan(Plan::Impl& plan);

/// Runs the plan's tasks on the pointers of `args`, which are valid and the problem planned.
Status execute(Plan::Impl& plan, const AttentionArgs& args);

/// A task takes about 200 bytes while its plan is made, so these are 13 GB, and the schedulers number tasks
/// in 32 bits. The largest batch we know of, all windows of a vision model, has 10^5.
inline constexpr std::int64_t kMaxTasks = std::int64_t{1} << 26;

}  // namespace kumiko
