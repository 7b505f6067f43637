// SPDX-License-Identifier: Apache-2.0
// std::fma of the reference rows as an instruction.
#pragma once

namespace kumiko::kernels {
namespace {

#if defined(__x86_64__) && !defined(__FMA__)
template <class Body>
[[gnu::target("avx2,fma"), gnu::noinline]] void call_with_fma(const Body& body) {
  body();
}
#endif

/// Calls `body`, whose operator() is always inlined: compiled for a processor with FMA where this is one, and
/// with it what the compiler inlines there. The bits are the same: std::fma rounds once everywhere, but in
/// code for every x86-64 it is a call of the C library (dtype_test with the reference rows: 38.9 s, and 12.7
/// so).
template <class Body>
void with_fma(const Body& body) {
#if defined(__x86_64__) && !defined(__FMA__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return call_with_fma(body);
#endif
  body();
}

}  // namespace
}  // namespace kumiko::kernels
