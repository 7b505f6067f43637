// SPDX-License-Identifier: Apache-2.0
// Shared by the tests of fields: tables of the fields of a call's arguments, each with a value other than its
// default, and the checks that both interfaces use every field.
#pragma once

#include <gtest/gtest.h>
#include <kumiko/attention_c.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <ostream>
#include <string>
#include <type_traits>
#include <vector>

#include "runtime/attention_fields.h"

namespace kumiko::test {

/// Memory for tensors of f32, bf16 or f16: wherever an element starts, it is a number between 2^-5 and 2 in
/// each of the three types.
class Words {
 public:
  explicit Words(std::uint32_t seed) : words_(1024) {
    for (std::uint32_t& word : words_) {
      word = 0;
      for (int half = 0; half < 2; ++half) {
        seed = seed * 1664525u + 1013904223u;
        word = word << 16 | (seed >> 16 & 0x8000u) | (0x3d00u + (seed >> 8 & 0x1ffu));
      }
    }
  }
  void* data() { return words_.data(); }
  void clear() { words_.assign(words_.size(), 0x7fc5eed1u); }
  const std::vector<std::uint32_t>& words() const { return words_; }

 private:
  std::vector<std::uint32_t> words_;
};

/// The memory of all calls here. There is one instance, because tables hold its addresses.
struct Memory {
  Words q{1}, k{2}, v{3}, bias{4}, mask{5}, scores{6}, slopes{7}, out{8}, lse{9}, row_max{16};
  Words parts[3] = {Words(10), Words(11), Words(12)}, sums[3] = {Words(13), Words(14), Words(15)};
  std::int32_t lengths[2] = {4, 2}, homes[4] = {1, 1, 1, 0}, cu_seqlens[3] = {0, 1, 3},
               table[4] = {1, 0, 1, 0};
  std::uint8_t causal[2] = {1, 0};
  std::uint8_t tree[12] = {1, 6, 3, 5, 7, 2, 4, 0, 5, 3, 6, 1};
  // Lists of at most one block, so that any part of them is valid.
  std::int32_t bsr_indptr[21] = {0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7, 7, 8, 8, 9, 10, 10, 11, 12, 12, 13},
               bsr_indices[14] = {0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0};
  Memory();
};
Memory& memory();

/// All visible effects of a call: status, message, outputs, and the description of a plan or context.
struct Seen {
  int code = 0;
  std::string message, text;
  std::vector<std::uint32_t> out, lse, row_max;
  bool operator==(const Seen&) const = default;
};
std::ostream& operator<<(std::ostream& os, const Seen& seen);
/// Poisons the outputs.
void clear_outputs();
Seen seen_of(const Status& status);
Seen seen_of(kumiko_status status);

/// Enumerators in C++, numbers in C.
template <class T>
void set(T& field, int value) {
  field = static_cast<T>(value);
}
/// The array of lse, in either struct, and its strides.
template <class Args>
auto& lse_of(Args& a) {
  if constexpr (requires { a.lse.data; })
    return a.lse.data;
  else
    return a.lse;
}
template <class Args>
std::int64_t* lse_stride_of(Args& a) {
  if constexpr (requires { a.lse.data; })
    return a.lse.stride.data();
  else
    return a.lse_stride;
}
template <class Tensor>
void place(Tensor& t, Words& words, const std::array<std::int64_t, 4>& shape,
           const std::array<std::int64_t, 4>& stride) {
  t.data = words.data();
  std::copy(shape.begin(), shape.end(), &t.shape[0]);
  std::copy(stride.begin(), stride.end(), &t.stride[0]);
}

/// A serial context of each API.
struct BothContexts : ::testing::Test {
  Context cpp_context;
  kumiko_context* c_context = nullptr;

  void SetUp() override {
    ContextOptions options;
    options.executor = "serial";
    ASSERT_TRUE(Context::create(options, &cpp_context).ok());
    kumiko_context_options c_options = KUMIKO_CONTEXT_OPTIONS_INIT;
    c_options.executor = "serial";
    ASSERT_EQ(kumiko_context_create(&c_options, &c_context), KUMIKO_OK);
  }
  void TearDown() override { kumiko_context_destroy(c_context); }
};

/// A field, a value for it, and other fields that must be set for the value to have an effect.
template <class Cpp, class C>
struct Field {
  std::string name;
  std::function<void(Cpp&)> cpp_given, cpp;  ///< No `cpp`: only the C struct has the field.
  std::function<void(C&)> c_given, c;
  bool alone = false;  ///< The value gives an error, so it cannot be set together with others.
};

template <class Cpp, class C>
class Fields {
 public:
  /// `given` and `change` take either struct.
  template <class Change, class Given>
  void add(const std::string& name, Change change, Given given, bool alone = false) {
    rows_.push_back({name, given, change, given, change, alone});
  }
  template <class Change>
  void add(const std::string& name, Change change) {
    add(name, change, [](auto&) {});
  }
  template <class Change>
  void add_refused(const std::string& name, Change change) {
    add(
        name, change, [](auto&) {}, true);
  }
  template <class Given>
  void add_c(const std::string& name, std::function<void(C&)> change, Given given) {
    rows_.push_back({name, given, nullptr, given, change, true});
  }
  /// Every field of a tensor. `tensor` returns the tensor of either struct; `given` makes an optional tensor
  /// present.
  template <class Tensor, class Given>
  void add_tensor(const std::string& name, int dtype, bool is_refused_dtype, Tensor tensor, Given given) {
    const auto advance = [tensor](auto& a) {
      auto& data = tensor(a).data;
      data = reinterpret_cast<std::remove_reference_t<decltype(data)>>(
          reinterpret_cast<std::uintptr_t>(data) + sizeof(float));
    };
    add(name + ".data", advance, given);
    add(
        name + ".dtype", [tensor, dtype](auto& a) { set(tensor(a).dtype, dtype); }, given, is_refused_dtype);
    for (std::size_t i = 0; i < 4; ++i) {
      const std::string index = "[" + std::to_string(i) + "]";
      add(
          name + ".shape" + index, [tensor, i](auto& a) { ++tensor(a).shape[i]; }, given, true);
      add(
          name + ".stride" + index, [tensor, i](auto& a) { ++tensor(a).stride[i]; }, given, i == 3);
    }
    add_c(
        name + ".reserved", [tensor](C& a) { tensor(a).reserved = 1; }, given);
  }
  /// The fields that all structs of arguments have.
  void add_visibility() {
    const auto causal = [](auto& a) { a.is_causal = true; };
    add("scale", [](auto& a) { a.scale = 0.25f; });
    add("is_causal", causal);
    add(
        "causal_alignment", [](auto& a) { set(a.causal_alignment, KUMIKO_TOP_LEFT); }, causal);
    add("window_left", [](auto& a) { a.window_left = 1; });
    add("window_right", [](auto& a) { a.window_right = 1; });
    add("seqused_k", [](auto& a) { a.seqused_k = memory().lengths; });
  }
  /// For all structs but fused_gemm's.
  void add_lse() {
    const auto given = [](auto& a) {
      constexpr std::int64_t kStride[3] = {40, 7, 2};
      lse_of(a) = static_cast<float*>(memory().lse.data());
      std::copy(kStride, kStride + 3, lse_stride_of(a));
    };
    add("lse", [](auto& a) { lse_of(a) = static_cast<float*>(memory().lse.data()); });
    for (std::size_t i = 0; i < 3; ++i)
      add(
          "lse_stride[" + std::to_string(i) + "]", [i](auto& a) { ++lse_stride_of(a)[i]; }, given);
  }
  const std::vector<Field<Cpp, C>>& rows() const { return rows_; }

 private:
  std::vector<Field<Cpp, C>> rows_;
};

/// "a, b, c": all fields of a struct of arguments; the library does not compile if one is missing.
template <class Args>
std::string names_of() {
  std::string names;
  for_each_field<Args>(
      [&](const char* name, std::size_t) { names += (names.empty() ? "" : ", ") + std::string(name); });
  return names;
}

/// "a, b, c": the struct's fields. Each must have a row, with its name or the name of a part of it.
template <class Cpp, class C>
void expect_a_row_for_each(const std::string& list, const Fields<Cpp, C>& fields) {
  for (std::size_t at = 0; at < list.size();) {
    const std::size_t end = std::min(list.find(", ", at), list.size());
    const std::string name = list.substr(at, end - at);
    at = end + 2;
    bool has_row = false;
    for (const auto& row : fields.rows()) {
      const char after = row.name[std::min(name.size(), row.name.size() - 1)];
      has_row = has_row || row.name == name || (row.name.starts_with(name) && (after == '.' || after == '['));
    }
    EXPECT_TRUE(has_row) << "the field " << name << " has no row in the table of fields";
  }
}

/// Changes one field at a time: through the C interface the change must have an effect, and the same one as
/// in C++.
template <class Cpp, class C, class SeeCpp, class SeeC>
void expect_each_field_counts(const Fields<Cpp, C>& fields, const Cpp& cpp, const C& c, SeeCpp see_cpp,
                              SeeC see_c) {
  for (const auto& row : fields.rows()) {
    SCOPED_TRACE(row.name);
    Cpp cpp_args = cpp;
    C c_args = c;
    row.cpp_given(cpp_args), row.c_given(c_args);
    const Seen before = see_c(c_args);
    EXPECT_EQ(before.code, KUMIKO_OK) << before;
    EXPECT_EQ(see_cpp(cpp_args), before) << "before it is changed";
    row.c(c_args);
    const Seen after = see_c(c_args);
    EXPECT_FALSE(after == before) << "the C interface drops it";
    if (!row.alone) {
      EXPECT_EQ(after.code, KUMIKO_OK) << after;
    }
    if (!row.cpp) continue;
    row.cpp(cpp_args);
    EXPECT_EQ(after, see_cpp(cpp_args));
  }
}

/// Changes all fields at once.
template <class Cpp, class C, class SeeCpp, class SeeC>
void expect_all_fields_together(const Fields<Cpp, C>& fields, Cpp cpp, C c, SeeCpp see_cpp, SeeC see_c) {
  for (const auto& row : fields.rows()) row.cpp_given(cpp), row.c_given(c);
  for (const auto& row : fields.rows()) {
    if (row.alone) continue;
    row.cpp(cpp), row.c(c);
  }
  const Seen want = see_cpp(cpp);
  EXPECT_EQ(want.code, KUMIKO_OK) << want;
  EXPECT_EQ(see_c(c), want);
}

}  // namespace kumiko::test
