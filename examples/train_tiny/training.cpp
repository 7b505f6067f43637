// SPDX-License-Identifier: Apache-2.0
#include "examples/train_tiny/training.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <numbers>
#include <stdexcept>

namespace train_tiny {
namespace {

float learning_rate_at(const Options& options, std::int64_t step) {
  const std::int64_t rise = std::max<std::int64_t>(1, options.steps / 20);
  if (step <= rise) return options.learning_rate * static_cast<float>(step) / static_cast<float>(rise);
  const double part =
      static_cast<double>(step - rise) / static_cast<double>(std::max<std::int64_t>(1, options.steps - rise));
  return options.learning_rate * static_cast<float>(0.55 + 0.45 * std::cos(std::numbers::pi * part));
}

std::uint64_t bits_of(const std::vector<Parameter*>& parameters) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const Parameter* parameter : parameters)
    for (const float x : parameter->value) hash = (hash ^ std::bit_cast<std::uint32_t>(x)) * 0x100000001b3;
  return hash;
}

/// `name` is what a message calls the text.
void expect_a_sequence(const std::string& name, const std::string& text, std::int64_t context) {
  if (std::ssize(text) < context + 1)
    throw std::invalid_argument(name + " has " + std::to_string(text.size()) + " bytes; expected " +
                                std::to_string(context + 1) + " or more, the context and a byte");
}

void expect_finite(const std::string& name, double loss, float learning_rate) {
  if (std::isfinite(loss)) return;
  char text[96];
  std::snprintf(text, sizeof text, " is %f; expected a finite number, as a learning rate below %g may give",
                loss, static_cast<double>(learning_rate));
  throw std::runtime_error(name + text);
}

}  // namespace

Batch draw_batch(const std::string& text, std::int64_t count, std::int64_t context, std::mt19937_64& random) {
  expect_a_sequence("the text", text, context);
  Batch batch;
  for (std::int64_t i = 0; i < count; ++i) {
    // Not a distribution of <random>, whose numbers differ from library to library.
    const std::size_t first = random() % (text.size() - static_cast<std::size_t>(context));
    for (std::size_t j = first; j < first + static_cast<std::size_t>(context); ++j) {
      batch.inputs.push_back(static_cast<std::uint8_t>(text[j]));
      batch.targets.push_back(static_cast<std::uint8_t>(text[j + 1]));
    }
  }
  return batch;
}

void adam_step(const std::vector<Parameter*>& parameters, std::int64_t step, float learning_rate) {
  constexpr double kMean = 0.9, kSquare = 0.99;
  double length = 0.0;
  for (const Parameter* parameter : parameters)
    for (const float x : parameter->gradient) length += static_cast<double>(x) * x;
  const auto cut = static_cast<float>(1.0 / std::max(1.0, std::sqrt(length)));
  const auto mean_factor = static_cast<float>(1.0 / (1.0 - std::pow(kMean, step))),
             square_factor = static_cast<float>(1.0 / (1.0 - std::pow(kSquare, step)));
  for (Parameter* parameter : parameters) {
    for (std::size_t i = 0; i < parameter->value.size(); ++i) {
      const float gradient = parameter->gradient[i] * cut;
      float& mean = parameter->mean[i];
      float& square = parameter->square[i];
      mean += static_cast<float>(1.0 - kMean) * (gradient - mean);
      square += static_cast<float>(1.0 - kSquare) * (gradient * gradient - square);
      parameter->value[i] -= learning_rate * mean * mean_factor / (std::sqrt(square * square_factor) + 1e-8f);
    }
  }
}

Outcome train(const Options& options, const std::string& text, const kumiko::Context& context,
              const std::function<void(const Progress&)>& after) {
  const std::string trained = text.substr(0, text.size() / 10 * 9), held_out = text.substr(trained.size());
  // Both now: the held-out part is read only after the last step, too late to keep the losses.
  expect_a_sequence("the training part of the text", trained, options.size.context);
  expect_a_sequence("the held-out part of the text", held_out, options.size.context);
  Model model(options.size, options.seed, context);
  std::mt19937_64 random(options.seed);
  const std::int64_t last = std::max<std::int64_t>(1, options.steps / 10);
  Outcome outcome;
  for (std::int64_t step = 1; step <= options.steps; ++step) {
    const Batch batch = draw_batch(trained, options.batch, options.size.context, random);
    const double loss = model.forward(batch);
    expect_finite("the loss of step " + std::to_string(step), loss, options.learning_rate);
    model.backward(batch);
    adam_step(model.parameters(), step, learning_rate_at(options, step));
    if (step > options.steps - last) outcome.loss += loss / static_cast<double>(last);
    after({step, loss});
  }
  outcome.held_out = model.forward(draw_batch(held_out, options.batch, options.size.context, random));
  expect_finite("the loss on text not trained on", outcome.held_out, options.learning_rate);
  outcome.bits = bits_of(model.parameters());
  return outcome;
}

}  // namespace train_tiny
