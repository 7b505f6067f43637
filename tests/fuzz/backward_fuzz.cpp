// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/backward_fuzz.h"

#include <kumiko/attention_backward_c.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "tests/fuzz/checks.h"
#include "tests/fuzz/failing_new.h"
#include "tests/fuzz/memory.h"

namespace kumiko::fuzz {
namespace {

constexpr float kCaps[] = {0.0f, 0.0f, 1.0f, 30.0f};

class BackwardCall {
 public:
  explicit BackwardCall(Input& input) {
    const int flags = input.byte(), wanted = input.byte(), types = input.byte();
    const std::int64_t batch = 1 + input.below(2), kv_heads = 1 + input.below(2),
                       q_heads = kv_heads * (1 + input.below(2)), q_len = input.below(10),
                       kv_len = input.below(24), dim = input.pick(kDims), v_dim = input.pick(kDims);
    const auto type = [types](int shift) { return kTypes[types >> shift & 3]; };
    const Layout::Order order = flags & 1 ? Layout::bshd : Layout::bhsd,
                        gradient_order = flags & 2 ? Layout::bshd : Layout::bhsd;
    const std::int64_t pad = flags & 4 ? 3 : 0;
    const std::array<std::int64_t, 4> q{batch, q_heads, q_len, dim}, k{batch, kv_heads, kv_len, dim},
        v{batch, kv_heads, kv_len, v_dim}, out{batch, q_heads, q_len, v_dim},
        scores{batch, q_heads, q_len, kv_len};
    add(Layout(q, order, 0, pad), type(0), false, &forward_.q);
    add(Layout(k, order, 0, pad), type(0), false, &forward_.k);
    add(Layout(v, order, 0, pad), type(0), false, &forward_.v);
    add(Layout(out, order, 0, pad), type(0), false, &forward_.out);
    add(Layout(out, gradient_order, 0, pad), type(2), false, &args_.dout);
    add(Layout(q, gradient_order, 0, pad), type(4), true, &args_.dq);
    add(Layout(k, gradient_order, 0, pad), type(6), true, &args_.dk);
    add(Layout(v, gradient_order, 0, pad), type(2), true, &args_.dv);
    const std::int64_t rows = batch * q_heads * q_len;
    forward_.lse = floats(rows, false);
    forward_.is_causal = flags >> 3 & 1;
    forward_.causal_alignment = flags >> 4 & 1;
    forward_.softcap = kCaps[flags >> 6 & 3];
    if (flags & 32) forward_.window_left = input.below(8);
    if (input.one_in(3)) {
      lengths_ = std::make_unique<std::int32_t[]>(static_cast<std::size_t>(batch));
      for (std::int64_t b = 0; b < batch; ++b)
        lengths_[static_cast<std::size_t>(b)] = input.below(static_cast<int>(kv_len) + 1);
      forward_.seqused_k = lengths_.get();
    }
    if (wanted & 1) args_.dlse = floats(rows, false);
    if (wanted & 2) args_.delta = floats(rows, false);
    if (wanted & 12) {
      forward_.sinks = floats(q_heads, false);
      if (wanted & 4) args_.dsinks = floats(q_heads, true);
      forward_.lse_with_sink = wanted >> 3 & 1;
    }
    if (wanted & 48) {
      add(Layout(scores, Layout::bhsd, input.byte() & 15), type(4), false, &forward_.bias);
      if (wanted & 16)
        add(Layout(scores, input.one_in(2) ? Layout::transposed : Layout::bhsd, input.byte() & 15, pad),
            type(6), true, &args_.dbias);
    }
    if (wanted & 192) {
      const std::int64_t sequences = input.one_in(2) ? batch : 1;
      forward_.alibi_batch_stride = sequences == batch ? q_heads : 0;
      forward_.alibi_slopes = floats(sequences * q_heads, false);
      if (wanted & 64) args_.dalibi_slopes = floats(sequences * q_heads, true);
    }
  }

  /// Fills out and lse.
  void run_forward(const kumiko_context* context) {
    args_.forward = &forward_;
    require(checked(kumiko_attention_forward(context, &forward_), "attention_forward") == KUMIKO_OK,
            "the call before its gradients runs", kumiko_last_error());
  }

  /// Changes one thing that matters. The call must then be refused.
  void add_fault(Input& input) {
    kumiko_tensor* const outputs[] = {&args_.dq, &args_.dk, &args_.dv, &args_.dbias};
    kumiko_tensor& tensor = *outputs[input.below(args_.dbias.shape[0] ? 4 : 3)];
    const bool is_empty = fuzz::is_empty(tensor.shape, 4);
    switch (input.below(8)) {
      case 0: {
        const int i = input.below(4);
        const std::int64_t size = input.number();
        is_refused_ = tensor.shape[i] != size;
        tensor.shape[i] = size;
        return;
      }
      case 1:
        tensor.reserved = 1;
        is_refused_ = true;
        return;
      case 2:
        tensor.dtype = static_cast<std::int32_t>(input.number());
        is_refused_ = !is_tensor_type(tensor.dtype);
        if (!is_refused_) tensor.reserved = 1, is_refused_ = true;
        return;
      case 3:
        if (is_empty) return;
        tensor.data = input.one_in(2)   ? nullptr
                      : args_.dout.data ? const_cast<void*>(args_.dout.data)
                                        : nullptr;
        is_refused_ = true;
        return;
      case 4:
        if (is_empty) return;
        tensor.stride[input.below(4)] = -1 - input.byte();
        is_refused_ = true;
        return;
      case 5:
        if (args_.dsinks) forward_.sinks = nullptr, is_refused_ = true;
        if (args_.dalibi_slopes) forward_.alibi_slopes = nullptr, is_refused_ = true;
        return;
      case 6:
        forward_.lse = nullptr;
        is_refused_ = !fuzz::is_empty(forward_.q.shape, 4);
        return;
      default:
        args_.delta_stride[input.below(3)] = -1 - input.byte();
        is_refused_ = !fuzz::is_empty(forward_.q.shape, 3);
        return;
    }
  }
  bool is_refused() const { return is_refused_; }

  /// Runs the call, or a plan of it.
  void check(const kumiko_context* context, long countdown, bool is_planned) {
    for (Buffer& buffer : buffers_)
      if (buffer.is_output()) buffer.poison();
    // In memory of exactly its size.
    const auto passed = std::make_unique<kumiko_backward_args>(args_);
    kumiko_backward_plan* plan = nullptr;
    kumiko_status status;
    {
      const FailingNew failing(kLargestRequest, countdown);
      if (is_planned) {
        status = kumiko_backward_plan_create(context, passed.get(), &plan);
        if (plan) status = kumiko_backward_plan_run(plan, passed.get());
      } else {
        status = kumiko_attention_backward(context, passed.get());
      }
    }
    require(!is_planned || plan || status != KUMIKO_OK, "a plan is made or an error returned");
    checked(status, "attention_backward");
    if (plan) check_texts(plan);
    kumiko_backward_plan_destroy(plan);
    if (status == KUMIKO_OK) {
      require(!is_refused_, "only sound gradients are computed");
      check_written();
      return;
    }
    require(status == KUMIKO_OUT_OF_MEMORY || is_refused_, "sound gradients are computed",
            kumiko_last_error());
    require(status != KUMIKO_OUT_OF_MEMORY || countdown >= 0, "gradients need little memory");
    for (const Buffer& buffer : buffers_)
      require(!buffer.is_output() || buffer.is_poisoned(), "an error leaves the outputs alone",
              "attention_backward");
  }

  /// All bytes of the gradients.
  std::vector<unsigned char> outputs() const {
    std::vector<unsigned char> all;
    for (const Buffer& buffer : buffers_) {
      const auto* const data = static_cast<const unsigned char*>(buffer.data());
      if (buffer.is_output()) all.insert(all.end(), data, data + buffer.size());
    }
    return all;
  }

 private:
  template <class Tensor>
  void add(const Layout& layout, std::int32_t type, bool is_output, Tensor* tensor) {
    layout.place(add_buffer(layout.extent(), type, is_output), type, tensor);
    if (is_output)
      written_.push_back({"", tensor->data, type, 4, layout.shape, layout.stride, buffers_.size() - 1, true});
  }
  float* floats(std::int64_t count, bool is_output) {
    Buffer& buffer = add_buffer(count, KUMIKO_F32, is_output);
    if (is_output)
      written_.push_back(
          {"", buffer.data(), KUMIKO_F32, 1, {count, 0, 0, 0}, {1, 0, 0, 0}, buffers_.size() - 1, true});
    return static_cast<float*>(buffer.data());
  }
  Buffer& add_buffer(std::int64_t count, std::int32_t type, bool is_output) {
    Buffer& buffer = buffers_.emplace_back(count, type, is_output);
    if (!is_output) buffer.fill(static_cast<std::uint32_t>(buffers_.size()), false);
    return buffer;
  }

  static void check_texts(const kumiko_backward_plan* plan) {
    const char* text = nullptr;
    std::int64_t bytes = -1;
    require(checked(kumiko_backward_plan_explain(plan, &text), "backward_plan_explain") == KUMIKO_OK &&
                std::string(text).find("workspace: ") != std::string::npos,
            "a plan explains itself");
    require(checked(kumiko_backward_plan_workspace_bytes(plan, &bytes), "workspace_bytes") == KUMIKO_OK &&
                bytes >= 0,
            "the workspace has a size");
  }

  /// Every element of every gradient, and nothing between them.
  void check_written() const {
    for (const Operand& gradient : written_) {
      const Buffer& buffer = buffers_[gradient.home];
      const auto bytes = static_cast<std::size_t>(bytes_of(gradient.dtype));
      std::vector<bool> is_element(buffer.size());
      each_element(gradient, [&](std::size_t at) {
        require(!buffer.is_poisoned(at * bytes, (at + 1) * bytes), "every gradient is written");
        std::fill_n(is_element.begin() + static_cast<std::ptrdiff_t>(at * bytes), bytes, true);
        return true;
      });
      for (std::size_t i = 0; i < is_element.size(); ++i)
        require(is_element[i] || buffer.is_poisoned(i, i + 1), "gradients are written and nothing else");
    }
  }

  kumiko_attention_args forward_ = KUMIKO_ATTENTION_ARGS_INIT;
  kumiko_backward_args args_ = KUMIKO_BACKWARD_ARGS_INIT;
  std::deque<Buffer> buffers_;
  std::vector<Operand> written_;
  std::unique_ptr<std::int32_t[]> lengths_;
  bool is_refused_ = false;
};

}  // namespace

void fuzz_backward(Input& input, const kumiko_context* own, const kumiko_context* other,
                   const kumiko_context* reference) {
  const int flags = input.byte();
  const long countdown = flags & 1 ? input.byte() : -1;
  BackwardCall call(input);
  call.run_forward(reference);
  if (flags & 2) call.add_fault(input);
  if (countdown >= 0) call.check(own, countdown, (flags & 4) != 0);
  call.check(own, -1, false);
  if (call.is_refused()) return;
  const std::vector<unsigned char> want = call.outputs();
  call.check(own, -1, true);
  require(call.outputs() == want, "a plan and the call give the same bits");
  if (!other) return;
  call.check(other, -1, (flags & 8) != 0);
  require(call.outputs() == want, "another machine's seats give the same bits");
}

}  // namespace kumiko::fuzz
