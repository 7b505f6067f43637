#include "linear.h"

#include <cblas.h>

namespace inference {

void linear(std::int64_t rows, std::int64_t in, std::int64_t out, const float* x, const float* weight,
            float* y) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<blasint>(rows), static_cast<blasint>(out),
              static_cast<blasint>(in), 1.0f, x, static_cast<blasint>(in), weight, static_cast<blasint>(in),
              0.0f, y, static_cast<blasint>(out));
}

void dot_rows(std::int64_t rows, std::int64_t columns, const float* matrix, const float* x, float* scores) {
  cblas_sgemv(CblasRowMajor, CblasNoTrans, static_cast<blasint>(rows), static_cast<blasint>(columns), 1.0f,
              matrix, static_cast<blasint>(columns), x, 1, 0.0f, scores, 1);
}

void use_one_blas_thread() {
  openblas_set_num_threads(1);
}

const char* blas_kernels() {
  return openblas_get_corename();
}

}  // namespace inference
