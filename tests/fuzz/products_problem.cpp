// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/products_problem.h"

namespace kumiko::fuzz {
namespace {

bool is_output_type(std::int32_t type, std::int32_t of_inputs) {
  return type == of_inputs || type == KUMIKO_F32;
}

}  // namespace

SoftmaxPvProblem::SoftmaxPvProblem(Input& input)
    : SizedProblem(KUMIKO_SOFTMAX_PV_ARGS_INIT, offsetof(kumiko_softmax_pv_args, lse)) {
  static constexpr std::int32_t kPipelines[] = {KUMIKO_PIPELINE_AUTOMATIC, KUMIKO_PIPELINE_ONLINE,
                                                KUMIKO_PIPELINE_TWO_PASS, KUMIKO_PIPELINE_INTERLEAVED,
                                                KUMIKO_PIPELINE_THREE_PASS};
  const std::int64_t batch = input.below(3), kv_heads = 1 + input.below(2),
                     q_heads = kv_heads * input.below(4), q_len = input.pick(kQueries),
                     kv_len = input.pick(kKeys), v_dim = input.pick(kDims);
  const int flags = input.byte(), types = input.byte(), places = input.byte();
  has_specials_ = (flags & 1) != 0;
  const std::int32_t scores_type = types & 16 ? KUMIKO_I32 : KUMIKO_F32, type = kTypes[types >> 5 & 3],
                     out_type = types & 128 ? KUMIKO_F32 : type;
  const Layout::Order order = flags & 2 ? Layout::bshd : Layout::bhsd;
  const Layout scores({batch, q_heads, q_len, kv_len}, order, places & 7, places & 16 ? 3 : 0);
  const Layout v({batch, kv_heads, kv_len, v_dim}, order, places >> 5 & 3, places & 8 ? 2 : 0);
  const Layout out({batch, q_heads, q_len, v_dim}, order, 0, places & 128 ? 3 : 0);
  Buffer& values = add_input(scores.extent(), scores_type, 1);
  if (scores_type == KUMIKO_F32 && flags & 16)
    values.sprinkle(2, 3, -std::numeric_limits<double>::infinity());
  scores.place(values, scores_type, &args_.scores);
  v.place(add_input(v.extent(), type, 3), type, &args_.v);
  out.place(add_output(out.extent(), out_type), out_type, &args_.out);
  void* const lse = add_output(batch * q_heads * q_len, KUMIKO_F32).data();
  if (flags & 4) args_.lse = static_cast<float*>(lse);
  draw_lengths(input, batch, (flags & 8) != 0);
  args_.pipeline = kPipelines[(flags >> 5) % 5];
  draw_visibility(input, types);
  if (scores_type == KUMIKO_I32) args_.scale = 1.0f / 16384;
}

void SoftmaxPvProblem::change(Input& input) {
  static constexpr std::size_t kEnds[] = {offsetof(kumiko_softmax_pv_args, lse),
                                          offsetof(kumiko_softmax_pv_args, lse_stride),
                                          offsetof(kumiko_softmax_pv_args, scale),
                                          offsetof(kumiko_softmax_pv_args, causal_alignment),
                                          offsetof(kumiko_softmax_pv_args, window_left),
                                          offsetof(kumiko_softmax_pv_args, seqused_k),
                                          offsetof(kumiko_softmax_pv_args, precision),
                                          sizeof(kumiko_softmax_pv_args) + 8,
                                          kLargestStruct};
  switch (input.below(8)) {
    case 0:
      args_.lse_stride[input.below(3)] = input.number();
      return;
    case 2:
      (input.one_in(4) ? args_.reserved : args_.precision) =
          input.one_in(2) ? input.below(4) : static_cast<std::int32_t>(input.number());
      return;
    case 1:
      args_.pipeline = input.one_in(2) ? input.below(7) : static_cast<std::int32_t>(input.number());
      return;
    default:
      return change_sized(input, kEnds);
  }
}

std::vector<Operand> SoftmaxPvProblem::operands() const {
  const kumiko_softmax_pv_args a = seen();
  std::vector<Operand> all = {operand_of("scores", a.scores, 0), operand_of("v", a.v, 1),
                              operand_of("out", a.out, 2, true)};
  if (a.lse) all.push_back(lse_of("lse", a.lse, a.lse_stride, a.out.shape, 3));
  return all;
}

std::vector<Problem::Field> SoftmaxPvProblem::tensors() {
  return {field_of(args_.scores), field_of(args_.v), field_of(args_.out)};
}

std::vector<std::vector<Problem::Dim>> SoftmaxPvProblem::sizes() const {
  return {{{0, 0}, {1, 0}, {2, 0}}, {{0, 1}, {2, 1}}, {{0, 2}, {2, 2}}, {{0, 3}, {1, 2}}, {{1, 3}, {2, 3}}};
}

bool SoftmaxPvProblem::is_sane() const {
  if (!has_sane_size()) return false;
  const kumiko_softmax_pv_args a = seen();
  if (!has_rows(a.scores) || !has_rows(a.v) || !has_rows(a.out)) return false;
  if (a.scores.dtype != KUMIKO_F32 && a.scores.dtype != KUMIKO_I32) return false;
  if (!is_tensor_type(a.v.dtype) || !is_output_type(a.out.dtype, a.v.dtype)) return false;
  const std::int64_t *scores = a.scores.shape, *v = a.v.shape, *out = a.out.shape;
  if (v[3] < 1 || v[3] > 576 || out[3] != v[3]) return false;
  if (v[0] != scores[0] || v[2] != scores[3] || !std::equal(scores, scores + 3, out)) return false;
  if (scores[1] > 0 && (v[1] == 0 || scores[1] % v[1] != 0)) return false;
  if (!is_empty(out, 3) && !fits(out, lse_strides(a.lse_stride, out).data(), 3)) return false;
  if (a.pipeline < 0 || a.pipeline > 5 || !has_sane_options(a)) return false;
  if (!is_precision(a.precision) || a.reserved != 0) return false;
  return outputs_apart();
}

bool SoftmaxPvProblem::outputs_are_right() const {
  for (const Operand& o : operands()) {
    const bool all = !o.is_output || each_element(o, [&](std::size_t at) {
      const double value = buffers_[o.home].value(at, o.dtype);
      return o.home == 2 ? std::fabs(value) <= 2.001 : value < 1e5;
    });
    if (!all) return false;
  }
  return true;
}

double SoftmaxPvProblem::tolerance(double value, std::int32_t dtype) const {
  return 1e-3 + (1e-5 + step_of(dtype)) * std::fabs(value);
}

std::string SoftmaxPvProblem::describe_options() const {
  const kumiko_softmax_pv_args a = seen();
  std::ostringstream text;
  text << SizedProblem::describe_options() << ", pipeline " << a.pipeline << ", precision " << a.precision
       << ", lse strides " << a.lse_stride[0] << ' ' << a.lse_stride[1] << ' ' << a.lse_stride[2];
  return text.str();
}

FusedGemmProblem::FusedGemmProblem(Input& input)
    : SizedProblem(KUMIKO_FUSED_GEMM_ARGS_INIT, offsetof(kumiko_fused_gemm_args, scale)) {
  static constexpr float kScales[] = {1.0f, 0.0f, -0.25f, 1e-30f};
  const std::int64_t batch = input.below(3), kv_heads = 1 + input.below(2),
                     q_heads = kv_heads * input.below(4), q_len = input.pick(kQueries),
                     kv_len = input.pick(kKeys), dim = input.pick(kDims), v_dim = input.pick(kDims);
  const int flags = input.byte(), types = input.byte();
  has_specials_ = (flags & 1) != 0;
  const std::int32_t type = kTypes[types >> 4 & 3], out_type = types & 64 ? KUMIKO_F32 : type;
  const Layout::Order order = flags & 2 ? Layout::bshd : Layout::bhsd;
  const std::int64_t pad = flags & 4 ? 3 : 0;
  const int shared = flags >> 4 & 3;
  const Layout q({batch, q_heads, q_len, dim}, order, flags & 64 ? 4 : 0, pad);
  const Layout k({batch, kv_heads, kv_len, dim}, order, shared, pad);
  const Layout v({batch, kv_heads, kv_len, v_dim}, order, shared, pad);
  const Layout out({batch, q_heads, q_len, v_dim}, order, 0, pad);
  q.place(add_input(q.extent(), type, 1), type, &args_.q);
  k.place(add_input(k.extent(), type, 2), type, &args_.k);
  v.place(add_input(v.extent(), type, 3), type, &args_.v);
  out.place(add_output(out.extent(), out_type), out_type, &args_.out);
  draw_lengths(input, batch, (flags & 8) != 0);
  draw_visibility(input, types);
  if (types & 128) args_.scale = input.pick(kScales);
}

void FusedGemmProblem::change(Input& input) {
  static constexpr std::size_t kEnds[] = {offsetof(kumiko_fused_gemm_args, scale),
                                          offsetof(kumiko_fused_gemm_args, causal_alignment),
                                          offsetof(kumiko_fused_gemm_args, window_left),
                                          offsetof(kumiko_fused_gemm_args, seqused_k),
                                          sizeof(kumiko_fused_gemm_args) + 8,
                                          kLargestStruct};
  if (input.one_in(8))
    args_.precision = input.one_in(2) ? input.below(4) : static_cast<std::int32_t>(input.number());
  else
    change_sized(input, kEnds);
}

std::vector<Operand> FusedGemmProblem::operands() const {
  const kumiko_fused_gemm_args a = seen();
  return {operand_of("q", a.q, 0), operand_of("k", a.k, 1), operand_of("v", a.v, 2),
          operand_of("out", a.out, 3, true)};
}

std::vector<Problem::Field> FusedGemmProblem::tensors() {
  return {field_of(args_.q), field_of(args_.k), field_of(args_.v), field_of(args_.out)};
}

std::vector<std::vector<Problem::Dim>> FusedGemmProblem::sizes() const {
  return {{{0, 0}, {1, 0}, {2, 0}, {3, 0}},
          {{0, 1}, {3, 1}},
          {{0, 2}, {3, 2}},
          {{1, 2}, {2, 2}},
          {{0, 3}, {1, 3}},
          {{2, 3}, {3, 3}}};
}

bool FusedGemmProblem::is_sane() const {
  if (!has_sane_size()) return false;
  const kumiko_fused_gemm_args a = seen();
  if (!has_rows(a.q) || !has_rows(a.k) || !has_rows(a.v) || !has_rows(a.out)) return false;
  if (!is_tensor_type(a.q.dtype) || a.k.dtype != a.q.dtype || a.v.dtype != a.q.dtype) return false;
  if (!is_output_type(a.out.dtype, a.q.dtype) || !is_precision(a.precision)) return false;
  const std::int64_t *q = a.q.shape, *k = a.k.shape, *v = a.v.shape, *out = a.out.shape;
  if (q[3] < 1 || q[3] > 576 || v[3] < 1 || v[3] > 576) return false;
  if (k[0] != q[0] || k[3] != q[3] || !std::equal(k, k + 3, v)) return false;
  if (!std::equal(q, q + 3, out) || out[3] != v[3]) return false;
  if (q[1] > 0 && (k[1] == 0 || q[1] % k[1] != 0)) return false;
  return has_sane_options(a) && outputs_apart();
}

double FusedGemmProblem::bound() const {
  return 8.0 * std::fabs(static_cast<double>(args_.scale)) * static_cast<double>(args_.q.shape[3]) *
         static_cast<double>(args_.k.shape[2]);
}

// The largest f16 is 65504; larger values round to infinity.
bool FusedGemmProblem::outputs_are_right() const {
  const double largest = bound() * 1.01;
  const bool may_overflow = args_.out.dtype == KUMIKO_F16 && largest >= 65520;
  const std::vector<double> values = output_values();
  return std::all_of(values.begin(), values.end(), [&](double value) {
    return std::fabs(value) <= largest || (may_overflow && std::isinf(value));
  });
}

double FusedGemmProblem::tolerance(double value, std::int32_t dtype) const {
  return 1e-5 * bound() + step_of(dtype) * std::fabs(value);
}

}  // namespace kumiko::fuzz
