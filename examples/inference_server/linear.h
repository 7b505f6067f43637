// y = x W^T through OpenBLAS, for a packed matrix of token rows.
#pragma once

#include <cstdint>
#include <span>

namespace inference {

/// Products are made of whole groups of 4 rows, the last one filled up with zeros: OpenBLAS 0.3.21 is slower
/// at the remainder than at the full group (1152x384 on a Zen 5 core, AVX-512: 7 rows 157 us, 8 rows 126 us;
/// AVX2: 197 and 133 us). And with at least 4 rows its AVX-512 kernels sum every row in one order, so that a
/// text's vector is the same bits in any batch. Its AVX2 kernel orders the sums of rows 0-5 and 6-11 of every
/// 12 differently: there vectors differ by some 1e-7 from batch to batch.
constexpr std::int64_t kRowTile = 4;

constexpr std::int64_t round_up_rows(std::int64_t rows) {
  return (rows + kRowTile - 1) / kRowTile * kRowTile;
}

/// y[rows, out] = x[rows, in] W[out, in]^T, row-major f32. Runs on the calling thread alone. `rows` is a
/// multiple of kRowTile.
void linear(std::int64_t rows, std::int64_t in, std::int64_t out, const float* x, const float* weight,
            float* y);

/// scores[i] = dot(matrix row i, x): matrix is [rows, columns] row-major.
void dot_rows(std::int64_t rows, std::int64_t columns, const float* matrix, const float* x, float* scores);

/// One thread per call: the server's own threads are the parallelism. Call once before any other function
/// here.
void use_one_blas_thread();

/// Name of the kernel set OpenBLAS chose for this machine or OPENBLAS_CORETYPE forced: "Haswell", "SkylakeX",
/// ...
const char* blas_kernels();

}  // namespace inference
