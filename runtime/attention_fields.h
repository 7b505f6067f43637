// SPDX-License-Identifier: Apache-2.0
// Operations on the fields of attention_fields.inc, and the check that the table has every field of
// AttentionArgs.
#pragma once

#include <cstddef>
#include <type_traits>

#include "runtime/attention.h"

namespace kumiko {

/// Numbers, flags and enumerators.
template <class T>
concept Scalar = std::is_arithmetic_v<T> || std::is_enum_v<T>;

/// Converts to every type, so that it can initialize any field. For unevaluated expressions only.
struct AnyValue {
  template <class T>
  operator T() const;
};

/// The number of fields of an aggregate, counted as the initializers that it takes. An array would count once
/// per element.
template <class Aggregate, class... Values>
constexpr int count_fields() {
  if constexpr (requires { Aggregate{Values{}..., AnyValue{}}; })
    return count_fields<Aggregate, Values..., AnyValue>();
  else
    return static_cast<int>(sizeof...(Values));
}

/// Calls see(name, bytes) for each field of `Args`, a C++ or C struct of arguments: those of the table, and
/// the few listed here that AttentionArgs lacks.
template <class Args, class See>
constexpr void for_each_field(See see) {
#define KUMIKO_FIELD(name) \
  if constexpr (requires(Args a) { a.name; }) see(#name, sizeof(Args::name));
#define KUMIKO_ATTENTION_FIELD(name, plan) KUMIKO_FIELD(name)
#include "runtime/attention_fields.inc"
#undef KUMIKO_ATTENTION_FIELD
  KUMIKO_FIELD(struct_size)
  KUMIKO_FIELD(lse_stride)
  KUMIKO_FIELD(row_max_stride)
  KUMIKO_FIELD(q_scale_stride)
  KUMIKO_FIELD(k_scale_stride)
  KUMIKO_FIELD(reserved)
  KUMIKO_FIELD(scores)
#undef KUMIKO_FIELD
}

/// Whether for_each_field() names every field of a C++ struct. Comparing sizes would not do: one more small
/// field may fit into padding and leave sizeof as it is.
template <class Args>
constexpr bool knows_all_fields() {
  enum class Once {  // A duplicate row, which could hide a missing one, does not compile.
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

/// Copies the fields that both structs have.
template <class From, class To>
void copy_fields(const From& from, To* to) {
#define KUMIKO_ATTENTION_FIELD(name, plan) \
  if constexpr (requires { from.name, to->name; }) to->name = from.name;
#include "runtime/attention_fields.inc"
#undef KUMIKO_ATTENTION_FIELD
}

/// `args` with every pointer null, tensors' data included. A plan keeps no pointer of its caller.
AttentionArgs without_pointers(const AttentionArgs& args);

}  // namespace kumiko
