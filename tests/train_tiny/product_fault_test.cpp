// SPDX-License-Identifier: Apache-2.0
// examples/train_tiny where oneDNN's product fails, which it does inside a parallel region: the error is an
// exception for the caller. This program's dnnl_sgemm stands before the library's.
#include <dnnl.h>
#include <gtest/gtest.h>
#include <omp.h>

#include "examples/train_tiny/layers.h"

extern "C" dnnl_status_t dnnl_sgemm(char, char, dnnl_dim_t, dnnl_dim_t, dnnl_dim_t, float, const float*,
                                    dnnl_dim_t, const float*, dnnl_dim_t, float, float*, dnnl_dim_t) {
  return dnnl_out_of_memory;
}

namespace train_tiny {
namespace {

TEST(TrainTinyFault, AFailedProductIsAnException) {
  for (const int threads : {1, 2}) {
    omp_set_num_threads(threads);
    std::mt19937_64 random(1);
    Linear linear(8, 8, 1.0f, random);
    const std::int64_t rows = 4 * kRows;
    const Floats x(static_cast<std::size_t>(8 * rows));
    Floats y(x.size()), dx(x.size());
    EXPECT_THROW(linear.forward(x, rows, &y), std::runtime_error);
    EXPECT_THROW(linear.backward(x, y, rows, &dx), std::runtime_error);
  }
}

}  // namespace
}  // namespace train_tiny
