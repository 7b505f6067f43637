// SPDX-License-Identifier: Apache-2.0
#include "attention.h"

#include "call.h"
#include "context.h"

namespace kumiko::python {
namespace {

nb::object attention(nb::handle q, nb::handle k, nb::handle v, nb::handle causal, nb::handle causal_alignment,
                     nb::handle window, nb::handle scale, nb::handle softcap, nb::handle alibi_slopes,
                     nb::handle bias, nb::handle mask, nb::handle tree_mask, nb::handle bsr_indptr,
                     nb::handle bsr_indices, nb::handle sinks, nb::handle lse_with_sink, nb::handle lse_base,
                     nb::handle window_sink_tokens, nb::handle causal_sequences, nb::handle prefix_lens,
                     nb::handle seqused_k, nb::handle cu_seqlens_q, nb::handle cu_seqlens_k,
                     nb::handle block_table, nb::handle kv_indptr, nb::handle max_pages, nb::handle bsr_rows,
                     nb::handle bsr_keys, nb::handle pipeline, nb::handle kv_domains, nb::handle return_lse,
                     nb::handle lse, nb::handle layout, nb::handle out, nb::handle context) {
  AttentionCall call(q, k, v, layout_of(layout));
  call.set(Settings{causal, causal_alignment, window, scale, softcap, lse_with_sink, lse_base,
                    window_sink_tokens, causal_sequences, prefix_lens, seqused_k, cu_seqlens_q, cu_seqlens_k,
                    max_pages, bsr_rows, bsr_keys, pipeline, kv_domains});
  call.set(
      Terms{alibi_slopes, bias, mask, tree_mask, bsr_indptr, bsr_indices, sinks, block_table, kv_indptr});
  call.set_out(out);
  call.set_lse(lse, flag_of("return_lse", return_lse));
  const Context chosen = context_of(context);
  without_gil([&] { return attention_forward(chosen, call.args); });
  return call.result();
}

}  // namespace

void bind_attention(nb::module_& module) {
  using nb::arg;
  module.def("attention", &attention, arg("q").none(), arg("k").none(), arg("v").none(), arg("causal").none(),
             arg("causal_alignment").none(), arg("window").none(), arg("scale").none(), arg("softcap").none(),
             arg("alibi_slopes").none(), arg("bias").none(), arg("mask").none(), arg("tree_mask").none(),
             arg("bsr_indptr").none(), arg("bsr_indices").none(), arg("sinks").none(),
             arg("lse_with_sink").none(), arg("lse_base").none(), arg("window_sink_tokens").none(),
             arg("causal_sequences").none(), arg("prefix_lens").none(), arg("seqused_k").none(),
             arg("cu_seqlens_q").none(), arg("cu_seqlens_k").none(), arg("block_table").none(),
             arg("kv_indptr").none(), arg("max_pages").none(), arg("bsr_rows").none(), arg("bsr_keys").none(),
             arg("pipeline").none(), arg("kv_domains").none(), arg("return_lse").none(), arg("lse").none(),
             arg("layout").none(), arg("out").none(), arg("context").none());
}

}  // namespace kumiko::python
