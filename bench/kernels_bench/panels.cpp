// SPDX-License-Identifier: Apache-2.0
#include "kernels/gemm/panels.h"

#include <cstring>

#include "bench/kernels_bench/common.h"
#include "kernels/float_state.h"

namespace kumiko::bench {
namespace {

using kernels::F16;
using kernels::PanelArgs;
using kernels::PanelKernel;
using kernels::PanelType;

/// The numbers of Floats as stored in a panel of `type`, and their values once rounded to it. A normal
/// distribution would serve as well; with these, sums of k products grow as sqrt(k).
struct Values {
  Values(PanelType type, std::int64_t lanes, std::int64_t k, std::uint64_t seed)
      : exact(static_cast<std::size_t>(lanes * k)), stored(exact.size() * 4) {
    Floats wide(lanes * k, seed);
    for (std::int64_t i = 0; i < lanes * k; ++i) {
      const std::int64_t lane = i % lanes, step = i / lanes;
      float x = wide[i];
      if (type == PanelType::i8) {
        const auto rounded = static_cast<std::int8_t>(x * 60);
        x = rounded;
        std::memcpy(&stored[static_cast<std::size_t>((step / 4 * lanes + lane) * 4 + step % 4)], &rounded, 1);
      } else {
        F16 half;
        kernels::from_float(x, &half);
        x = kernels::to_float(half);
        std::memcpy(&stored[static_cast<std::size_t>(i * 2)], &half, 2);
      }
      exact[static_cast<std::size_t>(i)] = x;
    }
  }
  std::vector<double> exact;
  std::vector<std::byte> stored;
};

double element(PanelType type, const std::byte* c, std::int64_t i) {
  if (type == PanelType::i8) return reinterpret_cast<const std::int32_t*>(c)[i];
  return reinterpret_cast<const float*>(c)[i];
}

/// The largest root mean square of the error, relative to that of the results. Chains of k rounded sums that
/// grow as sqrt(k) end with an error of about eps * sqrt(k) / 2 of their root mean square; twice that is
/// allowed.
double tolerance(const PanelArgs& args, PanelType type) {
  if (type == PanelType::i8) return 0;
  return 0x1p-11 * std::sqrt(static_cast<double>(std::min(args.k, args.k_block)));
}

void panel(benchmark::State& state, const PanelKernel& row, std::int64_t k, std::int64_t k_block,
           bool accumulate) {
  const kernels::FloatState float_state(row.isa);
  const Values a(row.type, row.mr, k, 1), b(row.type, row.nr, k, 2);
  std::vector<std::byte> c(static_cast<std::size_t>(row.mr * row.nr) * 4);
  const PanelArgs args{a.stored.data(), b.stored.data(), c.data(), row.nr * 4, k, row.mr, row.nr, k_block};
  row.init(&args);
  double errors = 0, results = 0;
  for (std::int64_t m = 0; m < row.mr; ++m) {
    for (std::int64_t n = 0; n < row.nr; ++n) {
      double want = 0;
      for (std::int64_t i = 0; i < k; ++i)
        want += a.exact[static_cast<std::size_t>(i * row.mr + m)] *
                b.exact[static_cast<std::size_t>(i * row.nr + n)];
      const double error = element(row.type, c.data(), m * row.nr + n) - want;
      errors += error * error;
      results += want * want;
    }
  }
  const double relative = std::sqrt(errors / results);
  if (!(relative <= tolerance(args, row.type))) return state.SkipWithError("wrong answer");
  std::vector<std::byte> zero(
      a.stored.size());  // An accumulator that grows for millions of calls would reach infinity.
  PanelArgs timed = args;
  if (accumulate) timed.a = zero.data();
  const kernels::PanelFunction run = accumulate ? row.accumulate : row.init;
  judge_flops(state, row.isa, 2.0 * static_cast<double>(row.mr * row.nr * k), [&] { run(&timed); });
  // The ceiling is that of f32. Vectors of f16 hold twice as many numbers; dot products of int8 do four times
  // the work.
  const double over_f32 = row.isa == kernels::Isa::reference ? 1 : row.type == PanelType::i8 ? 4 : 2;
  state.counters["peak_gflops"].value *= over_f32;
  state.counters["peak_fraction"].value /= over_f32;
  state.counters["relative_error"] = relative;
}

}  // namespace

void register_panels() {
  for (const PanelKernel& row : kernels::panel_kernels()) {
    for (const bool accumulate : {false, true}) {
      for (const std::int64_t k : {64, 256, 1024}) {
        std::vector<std::int64_t> blocks = {k};
        if (row.type == PanelType::f16_blocked) blocks = {32, 256, 512};
        for (const std::int64_t k_block : blocks) {
          const std::string block = row.type == PanelType::f16_blocked ? "_kc" + std::to_string(k_block) : "";
          register_kernel(std::string(row.name) + (accumulate ? "_accumulate" : "_init") + "_k" +
                              std::to_string(k) + block,
                          row.isa, [&row, k, k_block, accumulate](benchmark::State& state) {
                            panel(state, row, k, k_block, accumulate);
                          });
        }
      }
    }
  }
}

}  // namespace kumiko::bench
