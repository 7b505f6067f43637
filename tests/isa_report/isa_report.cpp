// SPDX-License-Identifier: Apache-2.0
// One line per instruction set: forced by name it either carries out an attention call here, with the right
// answer, or the library says why it cannot. isa_summary.py puts these reasons beside what the tests covered.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "kernels/cpu.h"
#include "runtime/attention.h"

namespace {

constexpr int kHeads = 2, kQueries = 19, kKeys = 70, kDim = 32;

/// Largest error of dense attention on this context against the definition in double.
double largest_error(const kumiko::Context& context, kumiko::Status* status) {
  std::vector<float> q(kHeads * kQueries * kDim), k(kHeads * kKeys * kDim), v(k.size()), out(q.size(), NAN);
  for (std::size_t i = 0; i < q.size(); ++i)
    q[i] = static_cast<float>(std::sin(1.3 * static_cast<double>(i)));
  for (std::size_t i = 0; i < k.size(); ++i) {
    k[i] = static_cast<float>(std::cos(0.7 * static_cast<double>(i)));
    v[i] = static_cast<float>(std::sin(0.2 * static_cast<double>(i)));
  }
  *status = kumiko::attention_forward(context,
                                      {.q = kumiko::ConstTensor::bhsd(q.data(), 1, kHeads, kQueries, kDim),
                                       .k = kumiko::ConstTensor::bhsd(k.data(), 1, kHeads, kKeys, kDim),
                                       .v = kumiko::ConstTensor::bhsd(v.data(), 1, kHeads, kKeys, kDim),
                                       .out = kumiko::Tensor::bhsd(out.data(), 1, kHeads, kQueries, kDim)});
  double worst = 0;
  for (int row = 0; row < kHeads * kQueries; ++row) {
    const float* keys = k.data() + row / kQueries * kKeys * kDim;
    const float* values = v.data() + row / kQueries * kKeys * kDim;
    std::vector<double> expected(kDim, 0.0);
    double sum = 0;
    for (int j = 0; j < kKeys; ++j) {
      double score = 0;
      for (int d = 0; d < kDim; ++d) score += static_cast<double>(q[row * kDim + d]) * keys[j * kDim + d];
      const double p = std::exp(score / std::sqrt(double{kDim}));
      sum += p;
      for (int d = 0; d < kDim; ++d) expected[d] += p * values[j * kDim + d];
    }
    for (int d = 0; d < kDim; ++d) {
      const double error = std::fabs(out[row * kDim + d] - expected[d] / sum);
      worst = std::isnan(error) ? INFINITY : std::max(worst, error);
    }
  }
  return worst;
}

}  // namespace

int main() {
  int failures = 0;
  for (const kumiko::kernels::Isa isa : kumiko::kernels::kIsas) {
    kumiko::ContextOptions options;
    options.isa = kumiko::kernels::name(isa);
    const bool offered = (kumiko::kernels::host_isas() & kumiko::kernels::bit(isa)) != 0;
    kumiko::Context context;
    kumiko::Status status = kumiko::Context::create(options, &context);
    if (!offered) {
      std::printf("%-10s not run: %s\n", options.isa.c_str(), status.message().c_str());
      // An ISA the machine lacks must be refused, with a reason.
      failures += status.code() != kumiko::Code::unsupported || status.message().empty();
      continue;
    }
    const double error = status.ok() ? largest_error(context, &status) : INFINITY;
    // 70 keys, |v| <= 1: 4e-6 is 64 roundings of f32.
    const bool right = status.ok() && context.isa() == options.isa && error < 4e-6;
    if (right) {
      std::printf("%-10s ran, largest error %.1e\n", options.isa.c_str(), error);
    } else {
      std::printf("%-10s FAILED: error %.1e, %s\n", options.isa.c_str(), error, status.message().c_str());
    }
    failures += !right;
  }
  return failures == 0 ? 0 : 1;
}
