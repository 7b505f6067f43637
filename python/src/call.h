// SPDX-License-Identifier: Apache-2.0
// One attention call from Python: the library's arguments, and what keeps their memory alive.
#pragma once

#include <kumiko/attention.h>
#include <nanobind/nanobind.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "arguments.h"
#include "tensors.h"

namespace kumiko::python {

/// Arguments that are no tensors. None is the default where there is one.
struct Settings {
  nb::handle causal, causal_alignment, window, scale, softcap, seqused_k, pipeline, kv_domains;
};

/// Fills what AttentionArgs, SoftmaxPvArgs and FusedGemmArgs have in common.
template <class Args>
void set_visibility(const Settings& settings, Args* args) {
  args->is_causal = flag_of("causal", settings.causal);
  args->causal_alignment = alignment_of(settings.causal_alignment);
  window_of(settings.window, &args->window_left, &args->window_right);
}

/// The tensors of the terms of a score, each a tensor or None.
struct Terms {
  nb::handle alibi_slopes, bias, mask;
};

class AttentionCall {
 public:
  AttentionCall(nb::handle q, nb::handle k, nb::handle v, Layout layout);
  AttentionCall(const AttentionCall&) = delete;
  AttentionCall& operator=(const AttentionCall&) = delete;

  void set(const Settings& settings);
  void set(const Terms& terms);
  /// `out`, or a new tensor of q's kind; returned by result().
  void set_out(nb::handle out);
  /// `lse`, or a new tensor if one is to be returned.
  void set_lse(nb::handle lse, bool is_returned);
  /// The output that set_out(None) would make, without its memory.
  void plan_out();
  /// out, or (out, lse).
  nb::object result() const;

  AttentionArgs args;
  std::vector<std::int32_t> seqused_k;

 private:
  std::array<std::int64_t, 4> out_shape() const;

  nb::handle query_;
  Layout layout_;
  nb::object out_, lse_;
  std::optional<Imported> q_, k_, v_, out_tensor_, lse_tensor_, slopes_, bias_, mask_;
  std::vector<std::int32_t> kv_domains_;
};

}  // namespace kumiko::python
