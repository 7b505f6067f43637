// SPDX-License-Identifier: Apache-2.0
// The ISA files' entries, gathered into tables by machine_peak.cpp.
#pragma once

#include <span>

#include "bench/machine_peak.h"

namespace kumiko::bench {

void fma_reference(std::int64_t iterations) noexcept;
extern const double kFmaReferenceFlops;
std::span<const ReadRow> read_rows_reference();

#if defined(__x86_64__)
void fma_avx2(std::int64_t iterations) noexcept;
extern const double kFmaAvx2Flops;
std::span<const ReadRow> read_rows_avx2();

void fma_avx512(std::int64_t iterations) noexcept;
extern const double kFmaAvx512Flops;
void dot_avx512_bf16(std::int64_t iterations) noexcept;
extern const double kDotAvx512Bf16Flops;
std::span<const ReadRow> read_rows_avx512();
#elif defined(__aarch64__)
void fma_neon(std::int64_t iterations) noexcept;
extern const double kFmaNeonFlops;
std::span<const ReadRow> read_rows_neon();

void fma_sve512(std::int64_t iterations) noexcept;
extern const double kFmaSve512Flops;
std::span<const ReadRow> read_rows_sve512();
#endif

}  // namespace kumiko::bench
