// SPDX-License-Identifier: Apache-2.0
// Training of model.h on a text: batches, Adam, the learning rate.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "examples/train_tiny/model.h"

namespace train_tiny {

struct Options {
  Size size;
  std::int64_t batch = 16, steps = 2000;
  float learning_rate =
      1e-3f;  ///< the highest: it rises for a twentieth of the steps, then falls to a tenth as a cosine
  std::uint64_t seed = 1;
};

/// `count` sequences of `context` bytes from random places of the text. Throws std::invalid_argument if it is
/// shorter than one.
Batch draw_batch(const std::string& text, std::int64_t count, std::int64_t context, std::mt19937_64& random);

/// One step of Adam (Kingma and Ba) with gradients cut to a length of 1, the first step being number 1.
void adam_step(const std::vector<Parameter*>& parameters, std::int64_t step, float learning_rate);

struct Progress {
  std::int64_t step;  ///< from 1 on
  double loss;        ///< of the batch, nats a byte
};

struct Outcome {
  double loss = 0;         ///< mean over the last tenth of the steps
  double held_out = 0;     ///< of a batch from the last tenth of the text, which was not trained on
  std::uint64_t bits = 0;  ///< FNV-1a of every parameter's bits
};

/// Trains a new model on the first nine tenths of the text and calls `after` after each step. Throws
/// std::invalid_argument before the first one if that part or the rest is shorter than a sequence, and
/// std::runtime_error at the first step whose loss is no finite number.
Outcome train(const Options& options, const std::string& text, const kumiko::Context& context,
              const std::function<void(const Progress&)>& after);

}  // namespace train_tiny
