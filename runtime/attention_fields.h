// SPDX-License-Identifier: Apache-2.0
// What attention_fields.inc says of the structs of arguments, and that it says it of all of AttentionArgs.
#pragma once

#include <cstddef>
#include <type_traits>

#include "runtime/attention.h"

namespace kumiko {

/// Numbers, flags and enumerators.
template <class T>
concept Scalar = std::is_arithmetic_v<T> || std::is_enum_v<T>;

/// Converts to every type: an initializer of any field. Never made, only looked at by the compiler.
struct AnyValue {
  template <class T>
  operator T() const;
};

/// The number of fields of an aggregate: of the initializers that it takes. An array in it would count as its
/// elements.
template <class Aggregate, class... Values>
constexpr int count_fields() {
  if constexpr (requires { Aggregate{Values{}..., AnyValue{}}; })
    return count_fields<Aggregate, Values..., AnyValue>();
  else
    return static_cast<int>(sizeof...(Values));
}

/// Calls see(name, bytes) for each field of `Args`, a struct of arguments in C++ or in C, that is known here:
/// those of the table and the few that AttentionArgs has not.
template <class Args, class See>
constexpr void for_each_field(See see) {
#define KUMIKO_FIELD(name) \
  if constexpr (requires(Args a) { a.name; }) see(#name, sizeof(Args::name));
#define KUMIKO_ATTENTION_FIELD(name, plan) KUMIKO_FIELD(name)
#include "runtime/attention_fields.inc"
#undef KUMIKO_ATTENTION_FIELD
  KUMIKO_FIELD(struct_size)
  KUMIKO_FIELD(lse_stride)
  KUMIKO_FIELD(reserved)
  KUMIKO_FIELD(scores)
#undef KUMIKO_FIELD
}

/// Whether for_each_field() names every field of a struct of C++. Not by a sum of sizes: the small fields
/// share a word with padding, so that one more may leave sizeof as it is.
template <class Args>
constexpr bool knows_all_fields() {
  enum class Once {  // A row that stands twice, and so might hide that another is missing, does not compile.
#define KUMIKO_ATTENTION_FIELD(name, plan) name,
#include "runtime/attention_fields.inc"
#undef KUMIKO_ATTENTION_FIELD
  };
  int known = 0;
  for_each_field<Args>([&](const char*, std::size_t) { ++known; });
  return known == count_fields<Args>();
}
static_assert(knows_all_fields<AttentionArgs>(),
              "a field of AttentionArgs has no row in attention_fields.inc");
static_assert(knows_all_fields<SoftmaxPvArgs>());
static_assert(knows_all_fields<FusedGemmArgs>());

/// Copies the fields that both have.
template <class From, class To>
void copy_fields(const From& from, To* to) {
#define KUMIKO_ATTENTION_FIELD(name, plan) \
  if constexpr (requires { from.name, to->name; }) to->name = from.name;
#include "runtime/attention_fields.inc"
#undef KUMIKO_ATTENTION_FIELD
}

/// `args` with null for every pointer in it, those of its tensors too: what a plan may keep after plan().
AttentionArgs without_pointers(const AttentionArgs& args);

}  // namespace kumiko
