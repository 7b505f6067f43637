#include "tests/fuzz/problem.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <sstream>

namespace kumiko::fuzz {
namespace {

__extension__ using Wide = __int128;

constexpr std::int64_t kMaxSize = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t kMaxBytes = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kMostPairs = std::int64_t{1} << 20;
constexpr std::uint32_t kUnwritten = 0x7fc0dead;  // no arithmetic gives this NaN
constexpr std::size_t kLargestStruct = 4096;      // beyond it struct_size is taken for uninitialised

std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

void fill(std::vector<float>& values, std::uint32_t seed, bool with_specials) {
  for (float& value : values) {
    seed = seed * 1664525u + 1013904223u;
    value = static_cast<float>(static_cast<std::int32_t>(seed) >> 16) / 16384.0f;
    if (with_specials && seed >> 24 == 7) value = std::numeric_limits<float>::infinity();
    if (with_specials && seed >> 24 == 9) value = std::numeric_limits<float>::quiet_NaN();
  }
}

bool is_empty(const std::int64_t* shape, int dims) {
  return std::find(shape, shape + dims, 0) != shape + dims;
}

// Elements from the first to one past the last. Sizes below 2^31 times strides below 2^63: far from 2^127.
Wide extent_of(const std::int64_t* shape, const std::int64_t* stride, int dims) {
  Wide last = 0;
  for (int i = 0; i < dims; ++i) last += static_cast<Wide>(shape[i] - 1) * stride[i];
  return is_empty(shape, dims) ? 0 : last + 1;
}

// May a tensor have this shape and these strides?
bool fits(const std::int64_t* shape, const std::int64_t* stride, int dims) {
  Wide count = 1;
  for (int i = 0; i < dims; ++i) {
    if (shape[i] < 0 || shape[i] > kMaxSize) return false;
  }
  if (is_empty(shape, dims)) return true;
  for (int i = 0; i < dims; ++i) {
    count *= shape[i];
    if (count * 4 > kMaxBytes || stride[i] < 0) return false;
  }
  return extent_of(shape, stride, dims) * 4 <= kMaxBytes;
}

template <class Tensor>
bool fits(const Tensor& t) {
  if (t.dtype != KUMIKO_F32 || t.reserved != 0 || !fits(t.shape, t.stride, 4)) return false;
  return is_empty(t.shape, 4) || t.shape[3] == 1 || t.stride[3] == 1;
}

struct LseStrides {
  std::int64_t stride[3];
  explicit LseStrides(const kumiko_attention_args& a) {
    std::memcpy(stride, a.lse_stride, sizeof stride);
    if (stride[0] != 0 || stride[1] != 0 || stride[2] != 0) return;
    const Wide rows = static_cast<Wide>(a.q.shape[1]) * a.q.shape[2];
    stride[0] = rows > kMaxBytes ? kMaxBytes : static_cast<std::int64_t>(rows);
    stride[1] = a.q.shape[2];
    stride[2] = 1;
  }
};

}  // namespace

Problem::Problem(Input& input) {
  static constexpr std::int64_t kQueries[] = {0, 1, 2, 3, 5, 8, 9, 17, 33};
  static constexpr std::int64_t kKeys[] = {0, 1, 2, 7, 16, 63, 255, 257, 511, 513};
  static constexpr std::int64_t kDims[] = {1, 2, 7, 8, 15, 16, 17};
  const std::int64_t batch = input.below(3), kv_heads = 1 + input.below(2),
                     q_heads = kv_heads * input.below(4), q_len = input.pick(kQueries),
                     kv_len = input.pick(kKeys), dim = input.pick(kDims), v_dim = input.pick(kDims);
  const std::uint8_t flags = input.byte();
  const std::uint8_t mask = input.byte();
  q_.resize(static_cast<std::size_t>(batch * q_heads * q_len * dim));
  k_.resize(static_cast<std::size_t>(batch * kv_heads * kv_len * dim));
  v_.resize(static_cast<std::size_t>(batch * kv_heads * kv_len * v_dim));
  out_.resize(static_cast<std::size_t>(batch * q_heads * q_len * v_dim));
  lse_.resize(static_cast<std::size_t>(batch * q_heads * q_len));
  lengths_.resize(static_cast<std::size_t>(batch));
  fill(q_, 1, (flags & 1) != 0);
  fill(k_, 2, (flags & 1) != 0);
  fill(v_, 3, (flags & 1) != 0);
  const bool bshd = (flags & 2) != 0;
  const auto input_view = [bshd](const std::vector<float>& data, auto b, auto h, auto s, auto d) {
    return bshd ? kumiko_const_tensor_bshd(data.data(), b, s, h, d)
                : kumiko_const_tensor_bhsd(data.data(), b, h, s, d);
  };
  args_.q = input_view(q_, batch, q_heads, q_len, dim);
  args_.k = input_view(k_, batch, kv_heads, kv_len, dim);
  args_.v = input_view(v_, batch, kv_heads, kv_len, v_dim);
  args_.out = bshd ? kumiko_tensor_bshd(out_.data(), batch, q_len, q_heads, v_dim)
                   : kumiko_tensor_bhsd(out_.data(), batch, q_heads, q_len, v_dim);
  if (flags & 4) args_.lse = lse_.data();
  if (flags & 8) args_.seqused_k = lengths_.data();
  for (std::int32_t& length : lengths_)
    length = (flags & 8) != 0 ? static_cast<std::int32_t>(input.byte() * kv_len / 255) : 0;
  args_.pipeline = (flags >> 4) % 6;
  args_.is_causal = mask & 1;
  args_.causal_alignment = mask >> 1 & 1;
  if (mask & 4) args_.window_left = input.byte();
  if (mask & 8) args_.window_right = input.byte();
}

void Problem::add_fault(Input& input) {
  is_faulty_ = true;
  switch (input.below(12)) {
    case 0:
    case 1:
    case 2:
      return change_tensor(input);
    case 3:
      return change_pointer(input);
    case 4:
    case 5:
      return change_all_sizes(input);
    case 6:
      args_.lse_stride[input.below(3)] = input.number();
      return;
    case 7:
      args_.scale = input.raw<float>();
      return;
    case 8: {
      std::int32_t* const fields[] = {&args_.is_causal, &args_.causal_alignment, &args_.pipeline};
      *input.pick(fields) = static_cast<std::int32_t>(input.number());
      return;
    }
    case 9:
      (input.one_in(2) ? args_.window_left : args_.window_right) = input.number();
      return;
    case 10:
      args_.seqused_k = input.one_in(4) ? nullptr : lengths_.data();
      if (!lengths_.empty())
        lengths_[input.byte() % lengths_.size()] = static_cast<std::int32_t>(input.number());
      return;
    default: {
      static constexpr std::size_t kEnds[] = {offsetof(kumiko_attention_args, lse),
                                              offsetof(kumiko_attention_args, lse_stride),
                                              offsetof(kumiko_attention_args, scale),
                                              offsetof(kumiko_attention_args, causal_alignment),
                                              offsetof(kumiko_attention_args, window_left),
                                              offsetof(kumiko_attention_args, seqused_k),
                                              sizeof(kumiko_attention_args) + 8,
                                              kLargestStruct};
      args_.struct_size = input.one_in(2) ? static_cast<std::size_t>(input.number()) : input.pick(kEnds);
      has_unknown_field_ = input.one_in(2);
      return;
    }
  }
}

void Problem::change_tensor(Input& input) {
  kumiko_const_tensor* const inputs[] = {&args_.q, &args_.k, &args_.v};
  const int which = input.below(4), i = input.below(4), field = input.below(5);
  const auto change = [&](auto& tensor) {
    if (field < 2) {
      tensor.shape[i] = input.number();
    } else if (field < 4) {
      tensor.stride[i] = input.number();
    } else {
      (input.one_in(2) ? tensor.dtype : tensor.reserved) = static_cast<std::int32_t>(input.number());
    }
  };
  which == 3 ? change(args_.out) : change(*inputs[which]);
}

void Problem::change_pointer(Input& input) {
  const int which = input.below(5);
  void* const starts[] = {q_.data(), k_.data(), v_.data(), out_.data(), lse_.data()};
  void* pointer = nullptr;
  switch (input.below(4)) {
    case 0:
      break;
    case 1:
      pointer = input.pick(starts);
      break;
    case 2:
      pointer = reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(starts[which]) + 1);
      break;
    default:  // The last pages of the address space: extents wrap.
      pointer = reinterpret_cast<void*>(std::uintptr_t{0} - 4 * (std::uintptr_t{1} + input.byte()));
      break;
  }
  if (which == 0) args_.q.data = pointer;
  if (which == 1) args_.k.data = pointer;
  if (which == 2) args_.v.data = pointer;
  if (which == 3) args_.out.data = pointer;
  if (which == 4) args_.lse = static_cast<float*>(pointer);
}

// One size in all tensors alike: what is accepted though nobody has the memory. With strides of 0 in the
// inputs even run() could be given it.
void Problem::change_all_sizes(Input& input) {
  const int what = input.below(4);
  std::int64_t size = input.number();
  if (input.one_in(2)) size &= kMaxSize;
  const bool expanded = input.one_in(2), repack = input.one_in(2);
  const auto set = [&](auto& tensor, int i) {
    tensor.shape[i] = size;
    if (expanded) tensor.stride[i] = 0;
  };
  switch (what) {
    case 0:
      set(args_.q, 0), set(args_.k, 0), set(args_.v, 0), set(args_.out, 0);
      break;
    case 1:  // one KV head more or less does not matter here
      set(args_.q, 1), set(args_.out, 1);
      break;
    case 2:
      set(args_.q, 2), set(args_.out, 2);
      break;
    default:
      set(args_.k, 2), set(args_.v, 2);
      break;
  }
  if (!repack) return;
  const auto packed = [](auto& t) {
    std::uint64_t stride = 1;
    for (int i = 3; i >= 0; --i) {
      t.stride[i] = static_cast<std::int64_t>(stride);
      stride *= static_cast<std::uint64_t>(t.shape[i]);
    }
  };
  packed(args_.out);
  if (!expanded) packed(args_.q), packed(args_.k), packed(args_.v);
}

const kumiko_attention_args* Problem::pass() {
  const std::size_t size = args_.struct_size;
  // The library may look at struct_size alone where it is absurd.
  const bool is_readable = size >= offsetof(kumiko_attention_args, lse) && size <= kLargestStruct &&
                           size % alignof(kumiko_attention_args) == 0;
  // seqused_k has as many values as the batch: no fault of this kind can be seen by the library.
  if (args_.q.shape[0] > static_cast<std::int64_t>(lengths_.size())) args_.seqused_k = nullptr;
  passed_.clear();
  passed_.resize(is_readable ? size : sizeof size, 0);
  passed_.shrink_to_fit();
  std::memcpy(passed_.data(), &args_, std::min(passed_.size(), sizeof args_));
  if (has_unknown_field_ && passed_.size() > sizeof args_) passed_.back() = 1;
  return reinterpret_cast<const kumiko_attention_args*>(passed_.data());
}

kumiko_attention_args Problem::seen() const {
  kumiko_attention_args args = KUMIKO_ATTENTION_ARGS_INIT;
  std::memcpy(static_cast<void*>(&args), &args_, std::min(args_.struct_size, sizeof args));
  if (args_.q.shape[0] > static_cast<std::int64_t>(lengths_.size())) args.seqused_k = nullptr;
  return args;
}

bool Problem::is_sane(bool with_lse) const {
  const std::size_t size = args_.struct_size;
  if (size < offsetof(kumiko_attention_args, lse) || size > kLargestStruct || size % 8 != 0) return false;
  if (size > sizeof args_ && has_unknown_field_) return false;
  const kumiko_attention_args a = seen();
  if (!fits(a.q) || !fits(a.k) || !fits(a.v) || !fits(a.out)) return false;
  const std::int64_t *q = a.q.shape, *k = a.k.shape, *v = a.v.shape, *out = a.out.shape;
  if (q[3] < 1 || q[3] > 576 || v[3] < 1 || v[3] > 576) return false;
  if (k[0] != q[0] || v[0] != q[0] || out[0] != q[0] || v[1] != k[1] || out[1] != q[1]) return false;
  if (v[2] != k[2] || out[2] != q[2] || k[3] != q[3] || out[3] != v[3]) return false;
  if (q[1] > 0 && (k[1] == 0 || q[1] % k[1] != 0)) return false;
  if (with_lse && !is_empty(q, 3) && !fits(q, LseStrides(a).stride, 3)) return false;
  if (!std::isfinite(a.scale) || (a.is_causal | 1) != 1 || (a.causal_alignment | 1) != 1) return false;
  if (a.pipeline < 0 || a.pipeline > 5 || a.window_left < -1 || a.window_right < -1) return false;
  for (std::int64_t b = 0; a.seqused_k && b < q[0]; ++b) {
    if (a.seqused_k[b] < 0 || a.seqused_k[b] > k[2]) return false;
  }
  if (!owns_memory() || !has_output()) return true;
  std::vector<bool> marks(out_.size()), lse_marks(lse_.size());
  if (a.out.data && a.out.data == out_.data() && !mark(out, a.out.stride, 4, &marks)) return false;
  return !with_lse || !a.lse || a.lse != lse_.data() || mark(q, LseStrides(a).stride, 3, &lse_marks);
}

const std::vector<float>* Problem::buffer_at(const void* pointer) const {
  for (const auto* buffer : {&q_, &k_, &v_, &out_, &lse_}) {
    if (pointer && pointer == buffer->data()) return buffer;
  }
  return nullptr;
}

bool Problem::owns(const void* pointer, const std::int64_t* shape, const std::int64_t* stride,
                   int dims) const {
  if (pointer == nullptr || reinterpret_cast<std::uintptr_t>(pointer) % sizeof(float) != 0) return true;
  if (!fits(shape, stride, dims)) return false;
  const std::vector<float>* buffer = buffer_at(pointer);
  return buffer && extent_of(shape, stride, dims) <= static_cast<Wide>(buffer->size());
}

bool Problem::owns_memory() const {
  const kumiko_attention_args a = seen();
  // Strides of 0 put any number of keys into a few floats, but a run over 2^31 of them takes minutes.
  Wide pairs = 1;
  for (const std::int64_t size : {a.q.shape[0], a.q.shape[1], a.q.shape[2], a.k.shape[2]}) {
    if (size < 0 || size > kMaxSize) return false;
    pairs *= size;
  }
  if (pairs > kMostPairs) return false;
  // An output in another buffer that nobody else uses is sound, but not where outputs_written() looks.
  const auto is_elsewhere = [&](const void* output, const std::vector<float>& home, const void* other) {
    return buffer_at(output) && output != home.data() && output != other && output != a.q.data &&
           output != a.k.data && output != a.v.data;
  };
  if (is_elsewhere(a.out.data, out_, a.lse) || is_elsewhere(a.lse, lse_, a.out.data)) return false;
  // So is an input in the buffer of an output that is not wanted, but its values are what marks the
  // unwritten.
  for (const void* data : {a.q.data, a.k.data, a.v.data}) {
    const std::vector<float>* buffer = buffer_at(data);
    if ((buffer == &out_ || buffer == &lse_) && data != a.out.data && data != a.lse) return false;
  }
  return owns(a.q.data, a.q.shape, a.q.stride, 4) && owns(a.k.data, a.k.shape, a.k.stride, 4) &&
         owns(a.v.data, a.v.shape, a.v.stride, 4) && owns(a.out.data, a.out.shape, a.out.stride, 4) &&
         owns(a.lse, a.q.shape, LseStrides(a).stride, 3);
}

bool Problem::has_output() const {
  const kumiko_attention_args a = seen();
  return !is_empty(a.out.shape, 4);
}

bool Problem::is_runnable() const {
  const kumiko_attention_args a = seen();
  if (!is_sane(a.lse != nullptr) || !owns_memory()) return false;
  if (!has_output()) return true;
  const bool no_keys = is_empty(a.k.shape, 4);
  const auto is_readable = [&](const void* data) {
    return buffer_at(data) && data != a.out.data && data != a.lse;
  };
  if (!is_readable(a.q.data) || (!no_keys && (!is_readable(a.k.data) || !is_readable(a.v.data))))
    return false;
  return a.out.data && a.out.data == out_.data() && (!a.lse || a.lse == lse_.data());
}

Problem::Planned Problem::planned() const {
  Planned kept{seen(), {}};
  if (kept.args.seqused_k) kept.lengths = lengths_;
  kept.lengths.resize(
      std::min(kept.lengths.size(), static_cast<std::size_t>(std::max<std::int64_t>(args_.q.shape[0], 0))));
  kept.args.q.data = kept.args.k.data = kept.args.v.data = kept.args.out.data = nullptr;
  kept.args.lse = nullptr;
  std::memset(kept.args.lse_stride, 0, sizeof kept.args.lse_stride);  // free from run to run
  kept.args.seqused_k = kept.args.seqused_k ? lengths_.data() : nullptr;
  kept.args.struct_size = 0;
  if (kept.args.scale == 0.0f) kept.args.scale = 0.0f;  // -0 is the same
  return kept;
}

bool Problem::is_same(const Planned& other) const {
  const Planned mine = planned();
  return std::memcmp(&mine.args, &other.args, sizeof mine.args) == 0 && mine.lengths == other.lengths;
}

void Problem::poison_outputs() {
  for (auto* buffer : {&out_, &lse_}) {
    for (float& value : *buffer) std::memcpy(&value, &kUnwritten, sizeof value);
  }
}

bool Problem::outputs_untouched() const {
  const auto is_unwritten = [](float value) { return bits_of(value) == kUnwritten; };
  return std::all_of(out_.begin(), out_.end(), is_unwritten) &&
         std::all_of(lse_.begin(), lse_.end(), is_unwritten);
}

bool Problem::mark(const std::int64_t* shape, const std::int64_t* stride, int dims,
                   std::vector<bool>* marks) {
  std::int64_t index[4] = {};
  for (;;) {
    std::int64_t at = 0;
    for (int i = 0; i < dims; ++i) at += shape[i] > 1 ? index[i] * stride[i] : 0;
    if ((*marks)[static_cast<std::size_t>(at)]) return false;
    (*marks)[static_cast<std::size_t>(at)] = true;
    int i = dims - 1;
    while (i >= 0 && ++index[i] == shape[i]) index[i--] = 0;
    if (i < 0) return true;
  }
}

bool Problem::outputs_written() const {
  const kumiko_attention_args a = seen();
  std::vector<bool> marks(out_.size()), lse_marks(lse_.size());
  if (has_output()) mark(a.out.shape, a.out.stride, 4, &marks);
  if (has_output() && a.lse) mark(a.q.shape, LseStrides(a).stride, 3, &lse_marks);
  const auto agrees = [](const std::vector<float>& values, const std::vector<bool>& elements) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      if ((bits_of(values[i]) != kUnwritten) != elements[i]) return false;
    }
    return true;
  };
  return agrees(out_, marks) && agrees(lse_, lse_marks);
}

std::string Problem::describe() const {
  const kumiko_attention_args a = seen();
  std::ostringstream text;
  const auto add = [&](const char* name, const void* data, const std::int64_t* shape,
                       const std::int64_t* stride, int dims) {
    text << name << " at " << data << (buffer_at(data) ? " (ours)" : "") << ", shape";
    for (int i = 0; i < dims; ++i) text << ' ' << shape[i];
    text << ", stride";
    for (int i = 0; i < dims; ++i) text << ' ' << stride[i];
    text << '\n';
  };
  text << "struct_size " << args_.struct_size << '\n';
  add("q", a.q.data, a.q.shape, a.q.stride, 4);
  add("k", a.k.data, a.k.shape, a.k.stride, 4);
  add("v", a.v.data, a.v.shape, a.v.stride, 4);
  add("out", a.out.data, a.out.shape, a.out.stride, 4);
  add("lse", a.lse, a.q.shape, a.lse_stride, 3);
  text << "scale " << a.scale << ", causal " << a.is_causal << ", alignment " << a.causal_alignment
       << ", pipeline " << a.pipeline << ", window " << a.window_left << ' ' << a.window_right << ", lengths";
  if (!a.seqused_k) text << " none";
  for (std::size_t b = 0; a.seqused_k && b < lengths_.size(); ++b) text << ' ' << lengths_[b];
  text << "\nsane " << is_sane() << ", owns its memory " << owns_memory() << ", runnable " << is_runnable();
  return text.str();
}

std::vector<std::uint32_t> Problem::outputs() const {
  std::vector<std::uint32_t> bits;
  for (const auto* buffer : {&out_, &lse_}) {
    for (const float value : *buffer) bits.push_back(bits_of(value));
  }
  return bits;
}

}  // namespace kumiko::fuzz
