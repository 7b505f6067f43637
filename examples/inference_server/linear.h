// y = x W^T through OpenBLAS, for a packed matrix of token rows.
#pragma once

#include <cstdint>
#include <span>

namespace inference {

/// OpenBLAS 0.3.21 walks the rows 12 at a time on AVX2, and takes another path for fewer than 4 on AVX-512; rows left over
/// are summed in another order. With a row count that is a multiple of 12 every row takes the same path, so a text's vector
/// does not depend on the batch it came in. At most 11 rows of zeros per batch; it is rarely slower than the remainder path
/// (1152x384 on a Zen 5 core: 11 rows 228 us, 12 rows 157 us with AVX2; 187 and 129 us with AVX-512).
constexpr std::int64_t kRowTile = 12;

constexpr std::int64_t round_up_rows(std::int64_t rows) { return (rows + kRowTile - 1) / kRowTile * kRowTile; }

/// y[rows, out] = x[rows, in] W[out, in]^T, row-major f32. Runs on the calling thread alone. `rows` is a multiple of kRowTile.
void linear(std::int64_t rows, std::int64_t in, std::int64_t out, const float* x, const float* weight, float* y);

/// scores[i] = dot(matrix row i, x): matrix is [rows, columns] row-major.
void dot_rows(std::int64_t rows, std::int64_t columns, const float* matrix, const float* x, float* scores);

/// One thread per call: the server's own threads are the parallelism. Call once before any other function here.
void use_one_blas_thread();

/// Name of the kernel set OpenBLAS chose for this machine or OPENBLAS_CORETYPE forced: "Haswell", "SkylakeX", ...
const char* blas_kernels();

}  // namespace inference
