// SPDX-License-Identifier: Apache-2.0
// Problems whose arguments are one struct that begins with struct_size, and the fields that all these structs
// share.
#pragma once

#include <algorithm>
#include <cmath>
#include <sstream>

#include "tests/fuzz/problem.h"

namespace kumiko::fuzz {

inline constexpr std::size_t kLargestStruct = 4096;  // beyond it struct_size is taken for uninitialised

/// The library never gets an `Args` without the values of its INIT macro.
template <class Args>
class SizedProblem : public Problem {
 public:
  /// The arguments in memory of exactly struct_size bytes.
  void pass() override {
    const std::size_t size = args_.struct_size;
    // If struct_size is absurd, the library may read only that.
    const bool is_readable = size >= smallest_ && size <= kLargestStruct && size % alignof(Args) == 0;
    drop_short_lists(&args_);
    passed_.clear();
    passed_.resize(is_readable ? size : sizeof size, 0);
    passed_.shrink_to_fit();
    std::memcpy(passed_.data(), &args_, std::min(passed_.size(), sizeof args_));
    if (has_unknown_field_ && passed_.size() > sizeof args_) passed_.back() = 1;
  }
  const Args* passed() const { return reinterpret_cast<const Args*>(passed_.data()); }

 protected:
  /// `smallest`: the end of the fields without defaults.
  SizedProblem(const Args& defaults, std::size_t smallest)
      : args_(defaults), defaults_(defaults), smallest_(smallest) {}

  /// [batch, q_heads, q_len] of the call, and its number of keys.
  virtual const std::int64_t* rows(const Args& args) const = 0;
  virtual std::int64_t keys(const Args& args) const = 0;
  virtual std::int64_t sequences(const Args& args) const { return rows(args)[0]; }
  /// Drops lists that are shorter than the sizes after a fault: the library cannot detect that and would read
  /// past them.
  virtual void drop_short_lists(Args* args) const {
    if (std::max(rows(*args)[0], sequences(*args)) > static_cast<std::int64_t>(lengths_.size()))
      args->seqused_k = nullptr;
  }

  /// The arguments as the library must take them: defaults for the fields after struct_size.
  Args seen() const {
    Args args = defaults_;
    std::memcpy(static_cast<void*>(&args), &args_, std::min(args_.struct_size, sizeof args));
    drop_short_lists(&args);
    return args;
  }

  Wide work() const override {
    const Args a = seen();
    Wide product = 1;
    for (const std::int64_t size : {rows(a)[0], rows(a)[1], rows(a)[2], keys(a)}) {
      if (size < 0 || size > kMaxSize) return kMaxBytes;
      product *= size;
    }
    return product;
  }

  void draw_lengths(Input& input, std::int64_t batch, bool wanted) {
    lengths_.resize(static_cast<std::size_t>(batch));
    if (!wanted) return;
    args_.seqused_k = lengths_.data();
    for (std::int32_t& length : lengths_)
      length = static_cast<std::int32_t>(input.byte() * keys(args_) / 255);
  }
  /// `flags`: causal, top left, a window to the left, one to the right.
  void draw_visibility(Input& input, int flags) {
    args_.is_causal = flags & 1;
    args_.causal_alignment = flags >> 1 & 1;
    if (flags & 4) args_.window_left = input.byte();
    if (flags & 8) args_.window_right = input.byte();
  }

  bool has_sane_size() const {
    const std::size_t size = args_.struct_size;
    if (size < smallest_ || size > kLargestStruct || size % 8 != 0) return false;
    return size <= sizeof args_ || !has_unknown_field_;
  }
  /// Scale, causality, windows and lengths of seen().
  bool has_sane_options(const Args& a) const {
    if (!std::isfinite(a.scale) || (a.is_causal | 1) != 1 || (a.causal_alignment | 1) != 1) return false;
    if (a.window_left < -1 || a.window_right < -1) return false;
    for (std::int64_t b = 0; a.seqused_k && b < sequences(a); ++b) {
      if (a.seqused_k[b] < 0 || a.seqused_k[b] > keys(a)) return false;
    }
    return true;
  }

  /// One of the faults that every struct of arguments can have; `ends`: sizes of older versions.
  template <std::size_t n>
  void change_sized(Input& input, const std::size_t (&ends)[n]) {
    switch (input.below(11)) {
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
        args_.scale = input.raw<float>();
        return;
      case 7:
        (input.one_in(2) ? args_.is_causal : args_.causal_alignment) =
            static_cast<std::int32_t>(input.number());
        return;
      case 8:
        (input.one_in(2) ? args_.window_left : args_.window_right) = input.number();
        return;
      case 9:
        args_.seqused_k = input.one_in(4) ? nullptr : lengths_.data();
        if (!lengths_.empty())
          lengths_[input.byte() % lengths_.size()] = static_cast<std::int32_t>(input.number());
        return;
      default:
        args_.struct_size = input.one_in(2) ? static_cast<std::size_t>(input.number()) : input.pick(ends);
        has_unknown_field_ = input.one_in(2);
        return;
    }
  }

  std::string describe_options() const override {
    const Args a = seen();
    std::ostringstream text;
    text << "struct_size " << args_.struct_size << ", scale " << a.scale << ", causal " << a.is_causal
         << ", alignment " << a.causal_alignment << ", window " << a.window_left << ' ' << a.window_right
         << ", lengths";
    if (!a.seqused_k) text << " none";
    for (std::size_t b = 0; a.seqused_k && b < lengths_.size(); ++b) text << ' ' << lengths_[b];
    return text.str();
  }

  Args args_;
  std::vector<std::int32_t> lengths_;

 private:
  const Args defaults_;
  const std::size_t smallest_;
  bool has_unknown_field_ = false;
  std::vector<unsigned char> passed_;
};

inline constexpr std::int64_t kQueries[] = {0, 1, 2, 3, 5, 8, 9, 17, 33};
inline constexpr std::int64_t kKeys[] = {0, 1, 2, 7, 16, 63, 255, 257, 511, 513};

}  // namespace kumiko::fuzz
