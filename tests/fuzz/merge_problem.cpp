// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/merge_problem.h"

#include <algorithm>
#include <cmath>
#include <sstream>

namespace kumiko::fuzz {
namespace {

constexpr std::int64_t kMostStates = 65536;
constexpr std::int64_t kDense[3] = {};

// Buffers: the two outputs, then two for each state.
enum Home : std::size_t { kOut, kLse, kFirstState };

}  // namespace

MergeProblem::MergeProblem(Input& input) {
  static constexpr std::int64_t kRows[] = {0, 1, 2, 5, 33, 65};
  const std::array<std::int64_t, 4> shape = {input.below(3), input.below(4), input.pick(kRows),
                                             input.pick(kDims)};
  const int count = 1 + input.below(5), flags = input.byte(), types = input.byte();
  has_specials_ = (flags & 1) != 0;
  const Layout::Order order = flags & 2 ? Layout::bshd : Layout::bhsd;
  const std::int32_t type = kTypes[types & 3], out_type = types & 4 ? KUMIKO_F32 : type;
  const std::int64_t rows = shape[0] * shape[1] * shape[2], lse_step = flags & 8 ? 2 : 1;
  const std::int64_t lse_size = rows > 0 ? (rows - 1) * lse_step + 1 : 0;
  const std::int64_t stride[3] = {shape[1] * shape[2] * 2, shape[2] * 2, 2};

  const Layout out(shape, order, 0, types & 8 ? 3 : 0);
  out.place(add_output(out.extent(), out_type), out_type, &out_);
  void* const lse = add_output(lse_size, KUMIKO_F32).data();
  if (flags & 4) lse_ = static_cast<float*>(lse);
  has_lse_stride_ = (flags & 24) != 0;
  if (flags & 8) std::copy(stride, stride + 3, lse_stride_);
  count_ = count;
  for (int n = 0; n < count; ++n) {
    const Layout view(shape, order, n > 0 ? types >> 4 & 7 : 0, types & 8 ? 3 : 0);
    kumiko_attention_state state = {KUMIKO_TENSOR_INIT, nullptr, {0, 0, 0}};
    const auto seed = static_cast<std::uint32_t>(n);
    view.place(add_input(view.extent(), type, seed), type, &state.out);
    Buffer& sums = add_input(lse_size, KUMIKO_F32, seed + 10);
    if (flags & 32) sums.sprinkle(seed, 3, -std::numeric_limits<double>::infinity());
    if (flags & 64) sums.sprinkle(seed + 1, 4, n % 2 ? -1e38 : 1e38);
    state.lse = static_cast<const float*>(sums.data());
    if (flags & 8) std::copy(stride, stride + 3, state.lse_stride);
    states_.push_back(state);
  }
}

void MergeProblem::change(Input& input) {
  switch (input.below(10)) {
    case 0:
    case 1:
    case 2:
      return change_tensor(input);
    case 3:
    case 4:
      return change_pointer(input);
    case 5:
    case 6:
      return change_all_sizes(input);
    case 7: {
      std::int64_t* const stride =
          input.one_in(2) ? states_[input.byte() % states_.size()].lse_stride : lse_stride_;
      stride[input.below(3)] = input.number();
      return;
    }
    case 8: {
      // Fewer states than there are, or a number that must be refused. The library cannot detect any other
      // wrong number.
      const std::int64_t count = input.number();
      if (count <= static_cast<std::int64_t>(states_.size()) || count > kMostStates) count_ = count;
      return;
    }
    default:
      has_lse_stride_ = !has_lse_stride_;
      return;
  }
}

void MergeProblem::pass() {
  passed_states_ = std::make_unique<kumiko_attention_state[]>(states_.size());
  std::copy(states_.begin(), states_.end(), passed_states_.get());
  passed_out_ = std::make_unique<kumiko_tensor>(out_);
  passed_stride_.reset();
  if (!has_lse_stride_) return;
  passed_stride_ = std::make_unique<std::int64_t[]>(3);
  std::copy(lse_stride_, lse_stride_ + 3, passed_stride_.get());
}

kumiko_status MergeProblem::call(const kumiko_context* context) const {
  return kumiko_merge_states(context, passed_states_.get(), count_, passed_out_.get(), lse_,
                             passed_stride_.get());
}

std::vector<Operand> MergeProblem::operands() const {
  std::vector<Operand> all;
  const auto count = std::clamp<std::int64_t>(count_, 0, static_cast<std::int64_t>(states_.size()));
  for (std::size_t n = 0; n < static_cast<std::size_t>(count); ++n) {
    all.push_back(operand_of("states[n].out", states_[n].out, kFirstState + 2 * n));
    all.push_back(lse_of("states[n].lse", states_[n].lse, states_[n].lse_stride, out_.shape,
                         kFirstState + 2 * n + 1, false));
  }
  all.push_back(operand_of("out", out_, kOut, true));
  if (lse_) all.push_back(lse_of("lse", lse_, has_lse_stride_ ? lse_stride_ : kDense, out_.shape, kLse));
  return all;
}

std::vector<Problem::Field> MergeProblem::tensors() {
  std::vector<Field> all;
  for (kumiko_attention_state& state : states_) all.push_back(field_of(state.out));
  all.push_back(field_of(out_));
  return all;
}

std::vector<void*> MergeProblem::pointers() {
  std::vector<void*> all = {&lse_};
  for (kumiko_attention_state& state : states_) all.push_back(&state.lse);
  return all;
}

std::vector<std::vector<Problem::Dim>> MergeProblem::sizes() const {
  std::vector<std::vector<Dim>> all(4);
  for (std::size_t i = 0; i < 4; ++i) {
    for (std::size_t tensor = 0; tensor <= states_.size(); ++tensor) all[i].push_back({tensor, i});
  }
  return all;
}

bool MergeProblem::is_sane() const {
  if (count_ < 1 || count_ > static_cast<std::int64_t>(states_.size())) return false;
  if (!has_rows(out_) || out_.shape[3] < 1 || out_.shape[3] > 576) return false;
  const std::int32_t type = states_[0].out.dtype;
  if (out_.dtype != type && out_.dtype != KUMIKO_F32) return false;
  const auto fits_lse = [&](const std::int64_t* stride) {
    return is_empty(out_.shape, 3) || fits(out_.shape, lse_strides(stride, out_.shape).data(), 3);
  };
  if (!fits_lse(has_lse_stride_ ? lse_stride_ : kDense)) return false;
  for (std::size_t n = 0; n < static_cast<std::size_t>(count_); ++n) {
    const kumiko_const_tensor& t = states_[n].out;
    if (!has_rows(t) || !is_tensor_type(t.dtype) || t.dtype != type) return false;
    if (!std::equal(t.shape, t.shape + 4, out_.shape) || !fits_lse(states_[n].lse_stride)) return false;
  }
  return outputs_apart();
}

bool MergeProblem::owns_memory() const {
  const std::vector<Operand> all = operands();
  for (const Operand& output : all) {
    const auto is_the_same = [&](const Operand& o) {
      return output.is_output && !o.is_output && o.data && o.data == output.data && o.dims == output.dims &&
             o.stride == output.stride && o.dtype == output.dtype;
    };
    if (std::any_of(all.begin(), all.end(), is_the_same)) return false;
  }
  return Problem::owns_memory();
}

Wide MergeProblem::work() const {
  Wide product = 1;
  for (int i = 0; i < 4; ++i) {
    if (out_.shape[i] < 0 || out_.shape[i] > kMaxSize) return kMaxBytes;
    product *= out_.shape[i];
  }
  return product;
}

// A weighted mean of values below 2, and at most 5 states of the same weight.
bool MergeProblem::outputs_are_right() const {
  for (const Operand& o : operands()) {
    const bool all = !o.is_output || each_element(o, [&](std::size_t at) {
      const double value = buffers_[o.home].value(at, o.dtype);
      return o.home == kOut ? std::fabs(value) <= 2.001 : value < 1.1e38;
    });
    if (!all) return false;
  }
  return true;
}

double MergeProblem::tolerance(double value, std::int32_t dtype) const {
  return 1e-4 + (1e-5 + step_of(dtype)) * std::fabs(value);
}

bool MergeProblem::move_in_place() {
  kumiko_attention_state& first = states_[0];
  if (first.out.dtype != out_.dtype || !lse_ || buffers_[kOut].size() != buffers_[kFirstState].size())
    return false;
  std::swap(buffers_[kOut], buffers_[kFirstState]);
  std::swap(buffers_[kLse], buffers_[kFirstState + 1]);
  out_.data = const_cast<void*>(first.out.data);
  lse_ = const_cast<float*>(first.lse);
  return true;
}

std::string MergeProblem::describe_options() const {
  std::ostringstream text;
  text << states_.size() << " states, count " << count_ << ", strides of lse";
  if (!has_lse_stride_) return text.str() + " none";
  for (const std::int64_t stride : lse_stride_) text << ' ' << stride;
  return text.str();
}

}  // namespace kumiko::fuzz
