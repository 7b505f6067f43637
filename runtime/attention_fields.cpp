// SPDX-License-Identifier: Apache-2.0
#include "runtime/attention_fields.h"

namespace kumiko {
namespace {

template <class Pointer>
void drop_pointer(View<Pointer>& view) {
  view.data = nullptr;
}
void drop_pointer(LseView& view) {
  view.data = nullptr;
}
void drop_pointer(ScaleView& view) {
  view.data = nullptr;
}
template <class T>
void drop_pointer(T*& pointer) {
  pointer = nullptr;
}
template <Scalar T>
void drop_pointer(T&) {}

}  // namespace

AttentionArgs without_pointers(const AttentionArgs& args) {
  AttentionArgs kept = args;
#define KUMIKO_ATTENTION_FIELD(name, plan) drop_pointer(kept.name);
#include "runtime/attention_fields.inc"
#undef KUMIKO_ATTENTION_FIELD
  return kept;
}

}  // namespace kumiko
