// SPDX-License-Identifier: Apache-2.0
// The linear layers: values against fp64, the same bits for a row in any batch, and one thread per call.
#include "linear.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <random>
#include <thread>
#include <vector>

namespace inference {
namespace {

std::vector<float> normal(std::int64_t count, unsigned seed, float deviation = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> value(0.0f, deviation);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& v : values) v = value(random);
  return values;
}

double gelu(double t) {
  return 0.5 * t * (1 + std::erf(t / std::sqrt(2.0)));
}

constexpr Epilogue kEpilogues[] = {Epilogue::kNone, Epilogue::kGelu, Epilogue::kAdd};

struct Shape {
  std::int64_t in, out;
};
// The products of all-MiniLM-L6-v2.
constexpr Shape kModelShapes[] = {{384, 1152}, {384, 384}, {384, 1536}, {1536, 384}};

TEST(Linear, MatchesFp64ForAnyRowsAndWidths) {
  for (const Shape shape : {Shape{384, 1152}, Shape{1536, 384}, Shape{33, 50}, Shape{1, 1}}) {
    const std::vector<float> weight = normal(shape.in * shape.out, 1), bias = normal(shape.out, 2);
    const std::vector<float> other(weight.size(), 0.0f);
    for (const Epilogue epilogue : kEpilogues) {
      LinearLayers layers(shape.in, shape.out, epilogue, 2);
      layers.add(other.data(), bias.data());
      layers.add(weight.data(), bias.data());
      for (const std::int64_t rows : {1, 3, 47, 48, 49, 97, 150}) {
        const std::vector<float> x = normal(rows * shape.in, 3), before = normal(rows * shape.out, 4);
        std::vector<float> y = before;
        layers.run(1, rows, x.data(), y.data());
        for (std::int64_t r = 0; r < rows; ++r) {
          for (std::int64_t o = r % 7; o < shape.out; o += 7) {  // every seventh is enough to find a lost one
            double exact = bias[static_cast<std::size_t>(o)];
            for (std::int64_t i = 0; i < shape.in; ++i) {
              exact += static_cast<double>(x[static_cast<std::size_t>(r * shape.in + i)]) *
                       weight[static_cast<std::size_t>(o * shape.in + i)];
            }
            const auto at = static_cast<std::size_t>(r * shape.out + o);
            if (epilogue == Epilogue::kGelu) exact = gelu(exact);
            if (epilogue == Epilogue::kAdd) exact += before[at];
            // A running sum of `in` products of deviation 1 is rounded `in` times by about 2^-25 of its size:
            // 4e-5 for 1536 of them. The bound is seven times that, plus the error of gelu.
            ASSERT_NEAR(y[at], exact, 2e-7 * static_cast<double>(shape.in) + 2e-6)
                << shape.in << "x" << shape.out << ", rows " << rows << ": " << r << ", " << o;
          }
        }
      }
    }
  }
}

TEST(Linear, GeluIsWithinItsBound) {
  // With an identity matrix the result is gelu alone.
  constexpr std::int64_t kWidth = 64;
  std::vector<float> identity(kWidth * kWidth, 0.0f), x;
  for (std::int64_t i = 0; i < kWidth; ++i) identity[static_cast<std::size_t>(i * kWidth + i)] = 1.0f;
  for (int i = -40 * 1024; i < 40 * 1024; ++i) x.push_back(static_cast<float>(i) / 1024);
  const std::vector<float> zero(kWidth, 0.0f);
  LinearLayers layers(kWidth, kWidth, Epilogue::kGelu, 1);
  layers.add(identity.data(), zero.data());
  std::vector<float> y(x.size());
  layers.run(0, std::ssize(x) / kWidth, x.data(), y.data());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double exact = gelu(x[i]);
    // Above 6 the result is t itself, and its only error is t's rounding.
    EXPECT_NEAR(y[i], exact, std::max(1.1e-6, std::abs(exact) * 1.2e-7)) << x[i];
  }
}

TEST(Linear, ARowHasTheSameBitsAmongAnyOthers) {
  constexpr std::int64_t kRows = 200;
  for (const Shape shape : kModelShapes) {
    const std::vector<float> weight = normal(shape.in * shape.out, 5, 0.1f), bias = normal(shape.out, 6);
    const std::vector<float> x = normal(kRows * shape.in, 7), before = normal(kRows * shape.out, 8);
    for (const Epilogue epilogue : kEpilogues) {
      LinearLayers layers(shape.in, shape.out, epilogue, 1);
      layers.add(weight.data(), bias.data());
      std::vector<float> all = before;
      layers.run(0, kRows, x.data(), all.data());
      for (std::int64_t rows = 1; rows < kRows; rows += rows < LinearLayers::kMaxRows ? 1 : 13) {
        const std::int64_t first = kRows - rows - rows % 3;
        if (first < 0) continue;
        std::vector<float> some(before.begin() + first * shape.out,
                                before.begin() + (first + rows) * shape.out);
        layers.run(0, rows, x.data() + first * shape.in, some.data());
        ASSERT_TRUE(std::equal(some.begin(), some.end(), all.begin() + first * shape.out))
            << shape.in << "x" << shape.out << ", rows " << first << " to " << first + rows << " by "
            << layers.kernels();
      }
    }
  }
}

TEST(Linear, ThreadsShareLayersAndEveryCallStaysOnItsOwn) {
  constexpr std::int64_t kRows = 150;
  const Shape shape = kModelShapes[3];
  const std::vector<float> weight = normal(shape.in * shape.out, 9), bias = normal(shape.out, 10);
  const std::vector<float> x = normal(kRows * shape.in, 11);
  const auto threads_now = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/task"),
                         std::filesystem::directory_iterator());
  };
  const int before = omp_get_max_threads();
  omp_set_num_threads(4);  // what a machine of 4 cores has
  const auto threads_before = threads_now();
  LinearLayers layers(shape.in, shape.out, Epilogue::kNone, 1);
  layers.add(weight.data(), bias.data());
  std::vector<float> expected(kRows * shape.out);
  layers.run(0, kRows, x.data(), expected.data());
  EXPECT_EQ(threads_now(), threads_before);  // OpenMP would keep any threads it started
  EXPECT_EQ(omp_get_max_threads(), 4);       // the caller's setting is unchanged
  omp_set_num_threads(before);

  std::vector<std::vector<float>> results(4);
  std::vector<std::thread> threads;
  for (std::vector<float>& result : results) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) {
        result.assign(expected.size(), 0.0f);
        layers.run(0, kRows, x.data(), result.data());
        if (result != expected) return;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::vector<float>& result : results) EXPECT_EQ(result, expected);
}

TEST(Linear, RefusesALayerThatIsNotThere) {
  LinearLayers layers(4, 4, Epilogue::kNone, 1);
  float x[4] = {}, y[4] = {};
  EXPECT_THROW(layers.run(0, 1, x, y), std::out_of_range);
  const float weight[16] = {}, bias[4] = {};
  layers.add(weight, bias);
  layers.run(0, 1, x, y);
  EXPECT_THROW(layers.add(weight, bias), std::length_error);
}

}  // namespace
}  // namespace inference
