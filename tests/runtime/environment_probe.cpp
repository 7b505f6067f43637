// SPDX-License-Identifier: Apache-2.0
// Makes a context in the environment it is started with and prints the outcome. Started by
// environment_test.cpp.
//
//   environment_probe [num_threads=N] [cpus=..] [bind=..] [executor=..] [isa=..] [topology=..] [policy=..]
//   [pin=CPU] [one_shot=1]
//
// Output: "code N" then the status message, or the context's facts and the plan of a 64-token problem. Exit
// status 0 either way.
#include <sched.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "runtime/attention.h"

namespace {

struct Tokens {
  std::vector<float> q = std::vector<float>(64 * 8, 0.5f), k = q, v = q, out = q;
  kumiko::AttentionArgs args;
  Tokens() {
    args.q = kumiko::ConstTensor::bhsd(q.data(), 1, 1, 64, 8);
    args.k = kumiko::ConstTensor::bhsd(k.data(), 1, 1, 64, 8);
    args.v = kumiko::ConstTensor::bhsd(v.data(), 1, 1, 64, 8);
    args.out = kumiko::Tensor::bhsd(out.data(), 1, 1, 64, 8);
  }
};

int report(const kumiko::Status& status) {
  std::printf("code %d\n%s\n", static_cast<int>(status.code()), status.message().c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  kumiko::ContextOptions options;
  bool one_shot = false;
  for (int i = 1; i < argc; ++i) {
    const std::string text = argv[i];
    const std::string key = text.substr(0, text.find('=')), value = text.substr(text.find('=') + 1);
    if (key == "num_threads") options.num_threads = std::atoi(value.c_str());
    if (key == "cpus") options.cpus = value;
    if (key == "bind") options.bind = value;
    if (key == "executor") options.executor = value;
    if (key == "isa") options.isa = value;
    if (key == "topology") options.topology = value;
    if (key == "policy") options.policy = value;
    if (key == "one_shot") one_shot = true;
    if (key == "pin") {
      cpu_set_t set;
      CPU_ZERO(&set);
      CPU_SET(std::atoi(value.c_str()), &set);
      if (sched_setaffinity(0, sizeof set, &set) != 0) return 2;
    }
  }
  const Tokens tokens;
  if (one_shot) {
    const kumiko::Status first = attention_forward(tokens.args), second = attention_forward(tokens.args);
    if (first.code() != second.code() || first.message() != second.message()) return 3;
    return report(second);
  }
  kumiko::Context context;
  if (const kumiko::Status status = kumiko::Context::create(options, &context); !status.ok())
    return report(status);
  kumiko::Plan prepared;
  if (const kumiko::Status status = plan(context, tokens.args, &prepared); !status.ok())
    return report(status);
  if (const kumiko::Status status = prepared.run(tokens.args); !status.ok()) return report(status);
  std::printf("code 0\nnum_threads %d\n%s%s", context.num_threads(), context.describe().c_str(),
              prepared.explain().c_str());
  return 0;
}
