// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/attention_problem.h"

#include <algorithm>

#include "tests/fuzz/packed_sequences.h"

namespace kumiko::fuzz {
namespace {

bool is_given(const kumiko_const_tensor& t) {
  return t.data || t.shape[0] != 0 || t.shape[1] != 0 || t.shape[2] != 0 || t.shape[3] != 0;
}

// A bias or mask, of any strides.
bool has_shape_of_scores(const kumiko_const_tensor& t, const kumiko_attention_args& a) {
  return fits(t) && std::equal(t.shape, t.shape + 3, a.q.shape) && t.shape[3] == longest_capacity(a);
}

}  // namespace

AttentionProblem::AttentionProblem(Input& input, int num_domains, bool serves, bool has_extras)
    : SizedProblem(KUMIKO_ATTENTION_ARGS_INIT, offsetof(kumiko_attention_args, lse)),
      num_domains_(num_domains),
      serves_(serves),
      has_extras_(has_extras) {
  const std::int64_t batch = input.below(3), kv_heads = 1 + input.below(2),
                     q_heads = kv_heads * input.below(4), q_len = input.pick(kQueries),
                     kv_len = input.pick(kKeys), dim = input.pick(kDims), v_dim = input.pick(kDims);
  const int flags = input.byte(), mask = input.byte();
  const std::int32_t type = kTypes[mask >> 4 & 3], out_type = mask & 64 ? KUMIKO_F32 : type;
  const int places = mask & 128 ? input.byte() : 0, terms = mask & 128 ? input.byte() : 0;
  has_specials_ = (flags & 1) != 0;

  const Layout::Order order = flags & 2 ? Layout::bshd : Layout::bhsd;
  const int shared = (places & 16 ? 1 : 0) | (places & 32 ? 2 : 0);
  const Places at{order,
                  places & 64 ? 2 : 0,
                  shared,
                  places & 1 ? 3 : 0,
                  places & 2 ? 1 : 0,
                  places & 4 ? 2 : 0,
                  places & 8 ? 3 : 0,
                  places & 128 ? 2 : 1};
  const Layout q({batch, q_heads, q_len, dim}, order, at.q_shared, at.q_pad);
  const Layout k({batch, kv_heads, kv_len, dim}, order, shared, at.k_pad);
  const Layout v({batch, kv_heads, kv_len, v_dim}, order, shared, at.v_pad);
  const Layout out({batch, q_heads, q_len, v_dim}, order, 0, at.out_pad);
  q.place(add_input(q.extent(), type, 1), type, &args_.q);
  k.place(add_input(k.extent(), type, 2), type, &args_.k);
  v.place(add_input(v.extent(), type, 3), type, &args_.v);
  out.place(add_output(out.extent(), out_type), out_type, &args_.out);
  const std::int64_t rows = batch * q_heads * q_len;
  void* const lse = add_output(rows > 0 ? (rows - 1) * at.lse_step + 1 : 0, KUMIKO_F32).data();
  if (places & 128) {
    const std::int64_t stride[3] = {q_heads * q_len * 2, q_len * 2, 2};
    std::copy(stride, stride + 3, args_.lse_stride);
  }
  if (flags & 4) args_.lse = static_cast<float*>(lse);
  draw_lengths(input, batch, (flags & 8) != 0);
  args_.pipeline = (flags >> 4) % 6;
  draw_visibility(input, mask);
  draw_terms(input, terms);
  const Buffer& sinks = add_input(has_extras ? q_heads : 0, KUMIKO_F32, 9);
  if (has_extras) args_.sinks = static_cast<const float*>(sinks.data());
  add_output(0, KUMIKO_F32);  // kRowMax
  homes_.resize(static_cast<std::size_t>(batch * kv_heads), -1);
  if (input.one_in(4)) {
    args_.kv_domains = homes_.data();
    for (std::int32_t& home : homes_) home = input.below(num_domains + 1) - 1;
  }
  // Last, so that other inputs keep their meaning.
  if (serves) draw_sequences(input, at);
  if (has_extras) draw_extras(input), draw_sequence_visibility(input), draw_key_lists(input);
  if (has_extras) draw_row_max(input), draw_int8(input);
}

void AttentionProblem::draw_terms(Input& input, int terms) {
  static constexpr Layout::Order kOrders[] = {Layout::bhsd, Layout::bshd, Layout::transposed};
  const std::array<std::int64_t, 4> scores = {args_.q.shape[0], args_.q.shape[1], args_.q.shape[2],
                                              args_.k.shape[2]};
  const auto layout = [&](int how) {
    return Layout(scores, kOrders[(how >> 4) % 3], how & 15, how & 128 ? 3 : 0);
  };
  const int bias_how = terms & 1 ? input.byte() : 0, mask_how = terms & 2 ? input.byte() : 0;
  const Layout bias = layout(bias_how), mask = layout(mask_how);
  const std::int32_t bias_type = terms & 1 ? kTypes[input.below(4)] : KUMIKO_F32;
  Buffer& biases = add_input(terms & 1 ? bias.extent() : 0, bias_type, 4);
  if (terms & 1) {
    if (terms & 32) biases.sprinkle(5, 3, -std::numeric_limits<double>::infinity());
    bias.place(biases, bias_type, &args_.bias);
  }
  Buffer& booleans = add_input(terms & 2 ? mask.extent() : 0, KUMIKO_BOOLEAN, 6);
  if (terms & 2) {
    if (terms & 64) booleans.sprinkle(7, 1 + input.below(4), 0);  // few keys are visible, or none
    mask.place(booleans, KUMIKO_BOOLEAN, &args_.mask);
  }
  const std::int64_t heads = args_.q.shape[1];
  const bool is_per_sequence = (terms & 16) != 0 && heads > 0;
  if (is_per_sequence) args_.alibi_batch_stride = heads + 1;
  const std::int64_t slopes = heads + (args_.q.shape[0] - 1) * args_.alibi_batch_stride;
  Buffer& alibi = add_input(terms & 4 && args_.q.shape[0] > 0 ? slopes : 0, KUMIKO_F32, 8);
  if (terms & 4) args_.alibi_slopes = static_cast<const float*>(alibi.data());
  static constexpr float kCaps[] = {30.0f, 0.5f, 1e-40f, 1e30f};
  if (terms & 8) args_.softcap = input.pick(kCaps);
  static constexpr float kScales[] = {0.25f, -1.0f, 1e-30f, 8.0f};
  if (terms & 128) args_.scale = input.pick(kScales);
}

std::vector<Operand> AttentionProblem::operands() const {
  const kumiko_attention_args a = seen();
  std::vector<Operand> all = {operand_of("q", a.q, kQ), operand_of("k", keys_in_memory(a), kK),
                              operand_of("v", a.v, kV)};
  if (is_given(a.bias)) all.push_back(operand_of("bias", a.bias, kBias));
  if (is_given(a.mask)) all.push_back(operand_of("mask", a.mask, kMask));
  if (a.alibi_slopes)
    all.push_back({"alibi_slopes",
                   a.alibi_slopes,
                   KUMIKO_F32,
                   2,
                   {sequences(a), a.q.shape[1], 0, 0},
                   {a.alibi_batch_stride, 1, 0, 0},
                   kSlopes,
                   false});
  const auto add_scales = [&](const char* name, const float* data, const auto& of,
                              const std::int64_t* stride) {
    if (data)
      all.push_back({name,
                     data,
                     KUMIKO_F32,
                     3,
                     {of.shape[0], of.shape[1], of.shape[2], 0},
                     {stride[0], stride[1], stride[2], 0},
                     kSlopes,
                     false});
  };
  add_scales("q_scale", a.q_scale, a.q, a.q_scale_stride);
  add_scales("k_scale", a.k_scale, a.k, a.k_scale_stride);
  if (a.sinks)
    all.push_back({"sinks", a.sinks, KUMIKO_F32, 1, {a.q.shape[1], 0, 0, 0}, {1, 0, 0, 0}, kSinks, false});
  if (a.block_table && a.kv_indptr)
    all.push_back({"block_table",
                   a.block_table,
                   KUMIKO_I32,
                   1,
                   {size_of_page_lists(a), 0, 0, 0},
                   {1, 0, 0, 0},
                   kTable,
                   false});
  else if (a.block_table)
    all.push_back({"block_table",
                   a.block_table,
                   KUMIKO_I32,
                   2,
                   {sequences(a), a.max_pages, 0, 0},
                   {table_stride(a), 1, 0, 0},
                   kTable,
                   false});
  add_key_lists(a, &all);
  all.push_back(operand_of("out", a.out, kOut, true));
  if (a.lse) all.push_back(lse_of("lse", a.lse, a.lse_stride, a.q.shape, kLse));
  if (a.row_max) all.push_back(lse_of("row_max", a.row_max, a.row_max_stride, a.q.shape, kRowMax));
  return all;
}

std::vector<Problem::Field> AttentionProblem::tensors() {
  return {field_of(args_.q),    field_of(args_.k),    field_of(args_.v),
          field_of(args_.bias), field_of(args_.mask), field_of(args_.out)};
}

std::vector<void*> AttentionProblem::pointers() {
  std::vector<void*> all = {&args_.lse, &args_.alibi_slopes};
  if (args_.block_table) all.push_back(&args_.block_table);
  if (has_extras_) all.push_back(&args_.sinks), all.push_back(&args_.row_max);
  if (args_.tree_mask) all.push_back(&args_.tree_mask);
  if (args_.bsr_indptr) all.push_back(&args_.bsr_indptr), all.push_back(&args_.bsr_indices);
  return all;
}

std::vector<std::vector<Problem::Dim>> AttentionProblem::sizes() const {
  // In the order of tensors(). A bias and a mask follow if given.
  std::vector<std::vector<Dim>> all = {
      {{0, 0}, {1, 0}, {2, 0}, {5, 0}}, {{0, 1}, {5, 1}}, {{0, 2}, {5, 2}}, {{1, 2}, {2, 2}}};
  for (std::size_t i = 0; i < 4; ++i) {
    if (is_given(args_.bias)) all[i].push_back({3, i});
    if (is_given(args_.mask)) all[i].push_back({4, i});
  }
  all.push_back({{0, 3}, {1, 3}});
  all.push_back({{2, 3}, {5, 3}});
  return all;
}

bool AttentionProblem::is_sane(bool with_lse, bool with_row_max) const {
  if (!has_sane_size()) return false;
  const kumiko_attention_args a = seen();
  if (!has_rows(a.q) || !has_rows(a.k) || !has_rows(a.v) || !has_rows(a.out)) return false;
  const bool is_int8 = a.q.dtype == KUMIKO_I8;
  if (a.k.dtype != a.q.dtype || !is_tensor_type(a.v.dtype) || (!is_int8 && a.v.dtype != a.q.dtype))
    return false;
  if (a.out.dtype != a.v.dtype && a.out.dtype != KUMIKO_F32) return false;
  if (a.q_scale && (!is_int8 || !fits(a.q.shape, a.q_scale_stride, 3))) return false;
  if (a.k_scale && (!is_int8 || !fits(a.k.shape, a.k_scale_stride, 3))) return false;
  const std::int64_t *q = a.q.shape, *k = a.k.shape, *v = a.v.shape, *out = a.out.shape;
  if (q[3] < 1 || q[3] > 576 || v[3] < 1 || v[3] > 576) return false;
  if (!has_sane_sequences(a) || !has_sane_extras(a)) return false;
  if (has_rows_of_queries(a) && !has_sane_page_lists(a)) return false;
  if (v[0] != k[0] || out[0] != q[0] || v[1] != k[1] || out[1] != q[1]) return false;
  if (v[2] != k[2] || out[2] != q[2] || k[3] != q[3] || out[3] != v[3]) return false;
  if (q[1] > 0 && (k[1] == 0 || q[1] % k[1] != 0)) return false;
  if (with_lse && !is_empty(q, 3) && !fits(q, lse_strides(a.lse_stride, q).data(), 3)) return false;
  if (with_row_max && !is_empty(q, 3) && !fits(q, lse_strides(a.row_max_stride, q).data(), 3)) return false;
  if (a.pipeline < 0 || a.pipeline > 5 || !has_sane_options(a)) return false;
  if (!std::isfinite(a.softcap) || a.softcap < 0.0f || !is_precision(a.precision)) return false;
  if (!is_known_type(a.bias.dtype) || a.bias.reserved != 0) return false;
  if (!is_known_type(a.mask.dtype) || a.mask.reserved != 0) return false;
  if (is_given(a.bias) && (!is_tensor_type(a.bias.dtype) || !has_shape_of_scores(a.bias, a))) return false;
  if (is_given(a.mask) && (a.mask.dtype != KUMIKO_BOOLEAN || !has_shape_of_scores(a.mask, a))) return false;
  for (std::int64_t i = 0; a.kv_domains && i < sequences(a) * k[1]; ++i) {
    if (a.kv_domains[i] < -1 || a.kv_domains[i] >= num_domains_) return false;
  }
  const std::int64_t slopes[2] = {a.alibi_batch_stride, 1}, sizes[2] = {sequences(a), q[1]};
  if (slopes[0] != 0 && slopes[0] < q[1]) return false;
  if (extent_of(sizes, slopes, 2) * 4 > kMaxBytes) return false;
  if (!has_sane_key_lists(a)) return false;
  return outputs_apart();
}

bool AttentionProblem::is_unsupported() const {
  const kumiko_attention_args a = seen();
  const bool is_int8 = a.q.dtype == KUMIKO_I8;
  // int8 has products of its own alone, and keys in rows.
  if (is_int8 && a.precision != KUMIKO_PRECISION_AUTOMATIC && a.precision != KUMIKO_PRECISION_INT8)
    return true;
  if (is_int8 && a.key_layout != KUMIKO_KEY_ROWS) return true;
  return a.precision == KUMIKO_PRECISION_HALF || (!is_int8 && a.precision == KUMIKO_PRECISION_INT8);
}

bool AttentionProblem::is_runnable() const {
  const kumiko_attention_args a = seen();
  return is_sane(a.lse != nullptr, a.row_max != nullptr) && has_memory() &&
         (!has_output() || (has_sane_table(a) && has_sane_block_lists(a)));
}

// Every output is an average of values below 2.
bool AttentionProblem::outputs_are_right() const {
  for (const Operand& o : operands()) {
    const bool all = !o.is_output || each_element(written_part(o), [&](std::size_t at) {
      const double value = buffers_[o.home].value(at, o.dtype);
      return o.home == kOut ? std::fabs(value) <= 2.001 : value < 1e5;  // -inf: nothing was seen
    });
    if (!all) return false;
  }
  return true;
}

// The absolute rounding error of a score becomes a relative error of the output: slopes and the largest scale
// make scores of about 1000. Products of bf16 take exponentials with a relative error of 1.1e-4 and round
// them by 2^-9 (docs/numerics.md, bf16 products): with a relative error e of the weights, an average of
// values below 2 moves by e times their distance from it, which is at most 4, and the log of the weights' sum
// moves by e.
double AttentionProblem::tolerance(double value, std::int32_t dtype) const {
  const double weights = args_.q.dtype == KUMIKO_BF16 ? 4 * (0x1p-9 + 1.1e-4) : 0.0;
  return 5e-3 + weights + (1e-5 + step_of(dtype)) * std::fabs(value);
}

AttentionProblem::Planned AttentionProblem::planned() const {
  Planned kept{seen(), {}, {}, {}, {}, {}};
  const auto copy = [&](const std::int32_t* list, std::int64_t count) {
    count = std::clamp<std::int64_t>(count, 0, size_of_list(list));
    return std::vector<std::int32_t>(list, list + count);
  };
  const std::int64_t count = sequences(kept.args);
  kept.lengths = copy(kept.args.seqused_k, count);
  kept.cu_seqlens_q = copy(kept.args.cu_seqlens_q, count + 1);
  kept.cu_seqlens_k = copy(kept.args.cu_seqlens_k, count + 1);
  kept.prefixes = copy(kept.args.prefix_lens, count);
  if (kept.args.causal_sequences)
    kept.causal.assign(causal_.begin(),
                       causal_.begin() + std::clamp<std::int64_t>(count, 0, std::ssize(causal_)));
  for (kumiko_const_tensor* t : {&kept.args.q, &kept.args.k, &kept.args.v, &kept.args.bias, &kept.args.mask})
    t->data = nullptr;
  kept.args.out.data = nullptr;
  kept.args.lse = nullptr;
  std::memset(kept.args.lse_stride, 0, sizeof kept.args.lse_stride);  // may change from run to run
  kept.args.row_max = nullptr;
  std::memset(kept.args.row_max_stride, 0, sizeof kept.args.row_max_stride);
  kept.args.q_scale = kept.args.k_scale = nullptr;
  std::memset(kept.args.q_scale_stride, 0, sizeof kept.args.q_scale_stride);
  std::memset(kept.args.k_scale_stride, 0, sizeof kept.args.k_scale_stride);
  static constexpr float kGiven = 0.0f;
  static constexpr std::int32_t kGivenList = 0;
  static constexpr std::uint8_t kGivenFlags = 0;
  kept.args.causal_sequences = kept.args.causal_sequences ? &kGivenFlags : nullptr;
  kept.args.tree_mask = kept.args.tree_mask ? &kGivenFlags : nullptr;
  for (const std::int32_t** list :
       {&kept.args.seqused_k, &kept.args.cu_seqlens_q, &kept.args.cu_seqlens_k, &kept.args.block_table,
        &kept.args.kv_indptr, &kept.args.prefix_lens, &kept.args.bsr_indptr, &kept.args.bsr_indices})
    *list = *list ? &kGivenList : nullptr;
  kept.args.alibi_slopes = kept.args.alibi_slopes ? &kGiven : nullptr;
  kept.args.sinks = kept.args.sinks ? &kGiven : nullptr;
  kept.args.kv_domains = nullptr;
  kept.args.struct_size = 0;
  if (kept.args.scale == 0.0f) kept.args.scale = 0.0f;  // -0 means the same
  if (kept.args.softcap == 0.0f) kept.args.softcap = 0.0f;
  return kept;
}

bool AttentionProblem::is_same(const Planned& other) const {
  const Planned mine = planned();
  return std::memcmp(&mine.args, &other.args, sizeof mine.args) == 0 && mine.lengths == other.lengths &&
         mine.cu_seqlens_q == other.cu_seqlens_q && mine.cu_seqlens_k == other.cu_seqlens_k &&
         mine.prefixes == other.prefixes && mine.causal == other.causal;
}

std::string AttentionProblem::describe_options() const {
  const kumiko_attention_args a = seen();
  std::ostringstream text;
  text << SizedProblem::describe_options() << ", pipeline " << a.pipeline << ", softcap " << a.softcap
       << ", lse strides " << a.lse_stride[0] << ' ' << a.lse_stride[1] << ' ' << a.lse_stride[2]
       << ", ALiBi stride " << a.alibi_batch_stride << ", precision " << a.precision << ", homes";
  if (!a.kv_domains) text << " none";
  for (std::size_t i = 0; a.kv_domains && i < homes_.size(); ++i) text << ' ' << homes_[i];
  text << describe_sequences(a) << ", sinks " << (a.sinks ? "given" : "none") << ", LSE with them "
       << a.lse_with_sink << ", in base " << a.lse_base << ", first tokens " << a.window_sink_tokens
       << ", causal sequences";
  for (std::size_t b = 0; a.causal_sequences && b < causal_.size(); ++b) text << ' ' << int{causal_[b]};
  text << ", tree stride " << a.tree_mask_stride << ", lists of " << a.bsr_rows << " x " << a.bsr_keys
       << ", head stride " << a.bsr_head_stride << ", maxima " << (a.row_max ? "given" : "none")
       << ", their strides " << a.row_max_stride[0] << ' ' << a.row_max_stride[1] << ' '
       << a.row_max_stride[2] << ", key layout " << a.key_layout << ", scales of queries "
       << (a.q_scale ? "given" : "none") << ", of keys " << (a.k_scale ? "given" : "none") << ", prefixes";
  for (std::size_t b = 0; a.prefix_lens && b < prefixes_.size(); ++b) text << ' ' << prefixes_[b];
  return text.str();
}

}  // namespace kumiko::fuzz
