// SPDX-License-Identifier: Apache-2.0
// examples/train_tiny: gradients against finite differences, the same bits on one and two threads, and that
// it learns.
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <fstream>
#include <iterator>

#include "examples/train_tiny/training.h"

namespace train_tiny {
namespace {

kumiko::Context context_of(int threads) {
  kumiko::Context context;
  kumiko::ContextOptions options;
  options.num_threads = threads;
  EXPECT_TRUE(kumiko::Context::create(options, &context).ok());
  omp_set_num_threads(threads);
  return context;
}

std::string founding_text() {
  std::ifstream file(KUMIKO_TRAIN_TINY_TEXT, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// A parameter of n elements is moved along a direction of random signs by h each way. The loss is a sum of
// f32 terms with an error of some 1e-7, so that the quotient's is 1e-7 / h, and h^2 is of its curvature: 3e-5
// and 1e-4 at h = 3e-3 of weights that are made ten times those of training, so that all layers matter. The
// slopes are 0.003 to 2; one that a layer computes wrongly is off by its own size.
TEST(TrainTiny, GradientsAreThoseOfFiniteDifferences) {
  const kumiko::Context context = context_of(1);
  const Size size{.layers = 2, .width = 16, .heads = 2, .context = 7};
  Model model(size, 5, context);
  std::mt19937_64 random(6);
  const Batch batch = draw_batch(founding_text(), 3, size.context, random);
  for (Parameter* parameter : model.parameters()) {
    const bool is_gain = parameter->value[0] == 1.0f;
    // Gains of 1 would hide a gradient that leaves them out.
    for (float& x : parameter->value) x *= is_gain ? 0.5f + 0.25f * static_cast<float>(random() % 5) : 10.0f;
  }
  model.forward(batch);
  model.backward(batch);
  std::size_t number = 0;
  for (Parameter* parameter : model.parameters()) {
    SCOPED_TRACE(::testing::Message() << "parameter " << number++);
    constexpr float kStep = 3e-3f;
    const Floats value = parameter->value, gradient = parameter->gradient;
    double slope = 0.0;
    Floats direction(value.size());
    for (std::size_t i = 0; i < value.size(); ++i) {
      direction[i] = random() % 2 == 0 ? 1.0f : -1.0f;
      slope += static_cast<double>(gradient[i]) * direction[i];
    }
    double loss[2];
    for (const int side : {0, 1}) {
      for (std::size_t i = 0; i < value.size(); ++i)
        parameter->value[i] = value[i] + (side == 0 ? -kStep : kStep) * direction[i];
      loss[side] = model.forward(batch);
    }
    parameter->value = value;
    EXPECT_NEAR(slope, (loss[1] - loss[0]) / (2 * kStep), 1e-3 + 0.02 * std::abs(slope));
    EXPECT_GT(std::abs(slope), 2e-3) << "a direction that shows nothing";
  }
}

TEST(TrainTiny, LearnsTheSameBitsOnOneAndTwoThreads) {
  const Options options{.size = {.layers = 2, .width = 64, .heads = 2, .context = 64},
                        .batch = 8,
                        .steps = 80,
                        .learning_rate = 3e-3f};
  const std::string text = founding_text();
  std::vector<double> losses[2];
  Outcome outcome[2];
  for (const int threads : {1, 2}) {
    const kumiko::Context context = context_of(threads);
    outcome[threads - 1] = train(options, text, context, [&](const Progress& progress) {
      losses[threads - 1].push_back(progress.loss);
    });
  }
  EXPECT_EQ(losses[0], losses[1]);
  EXPECT_EQ(outcome[0].bits, outcome[1].bits);
  EXPECT_NEAR(losses[0][0], std::log(256.0), 0.1);  // At first every byte is as likely as another.
  EXPECT_LT(outcome[0].loss, 2.6);
  EXPECT_LT(outcome[0].held_out, 2.6);
}

TEST(TrainTiny, ALossThatIsNoNumberEndsTheTraining) {
  const kumiko::Context context = context_of(1);
  const Options options{.size = {.layers = 1, .width = 8, .heads = 1, .context = 8},
                        .batch = 1,
                        .steps = 50,
                        .learning_rate = 1e30f};
  std::int64_t steps = 0;
  try {
    train(options, founding_text(), context, [&](const Progress& progress) {
      ++steps;
      EXPECT_TRUE(std::isfinite(progress.loss));
    });
    ADD_FAILURE() << "it was trained";
  } catch (const std::runtime_error& problem) {
    EXPECT_NE(std::string(problem.what()).find("expected a finite number"), std::string::npos)
        << problem.what();
  }
  EXPECT_LT(steps, 50);
}

TEST(TrainTiny, TextsThatAreTooShortAreNamed) {
  std::mt19937_64 random(1);
  try {
    draw_batch("short", 1, 8, random);
    FAIL();
  } catch (const std::invalid_argument& problem) {
    EXPECT_STREQ(problem.what(), "the text has 5 bytes; expected 9 or more, the context and a byte");
  }
}

// After the last step it would be too late: the losses would be lost.
TEST(TrainTiny, PartsThatAreTooShortAreNamedBeforeTheFirstStep) {
  const kumiko::Context context = context_of(1);
  const std::string text = founding_text();
  for (const auto& [length, message] :
       {std::pair{8192,
                  "the held-out part of the text has 5472 bytes; expected 8193 or more, the context and "
                  "a byte"},
        std::pair{49203,
                  "the training part of the text has 49203 bytes; expected 49204 or more, the context "
                  "and a byte"}}) {
    const Options options{
        .size = {.layers = 1, .width = 8, .heads = 1, .context = length}, .batch = 1, .steps = 1};
    try {
      train(options, text, context, [](const Progress&) { ADD_FAILURE() << "a step was made"; });
      ADD_FAILURE() << "it was trained";
    } catch (const std::invalid_argument& problem) {
      EXPECT_STREQ(problem.what(), message);
    }
  }
}

}  // namespace
}  // namespace train_tiny
