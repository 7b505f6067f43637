// SPDX-License-Identifier: Apache-2.0
// One call of the library between two marks, for bench/a64fx_model/executed.py, which runs this program under
// the emulator and counts the blocks of instructions between the marks:
//
//   a64fx_call attention|softmax_pv|fused_gemm|backward f32|f16 standard|half PIPELINE Q_HEADS KV_HEADS Q_LEN
//   KV_LEN HEAD_DIM [causal]
//
// backward is attention_backward: f32, standard, automatic and as many queries as keys. Some rows of the
// answer are compared with fp64 after the call. Exit status: 0; 1 for a wrong answer or a
// failed call; 2 for wrong arguments.
#include <kumiko/attention.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "bench/data_pool.h"
#include "bench/gradient_problem.h"
#include "kernels/element.h"

extern "C" {
// Found in the program by name. The assembly keeps calls where they are.
[[gnu::noinline]] void a64fx_call_begins() {
  asm volatile("" ::: "memory");
}
[[gnu::noinline]] void a64fx_call_ends() {
  asm volatile("" ::: "memory");
}
}

namespace kumiko::bench {
namespace {

struct Options {
  std::string what;
  DataType type = DataType::f32;
  Precision precision = Precision::standard;
  Pipeline pipeline = Pipeline::automatic;
  std::int64_t q_heads = 1, kv_heads = 1, q_len = 1, kv_len = 1, dim = 1;
  bool is_causal = false;
};

/// Random elements of one type, and their values.
struct Data {
  DataType type;
  std::vector<float> values;
  std::vector<kernels::F16> halves;

  Data(std::int64_t size, DataType of, float most, Random& random)
      : type(of), values(static_cast<std::size_t>(size)), halves(of == DataType::f16 ? values.size() : 0) {
    for (float& x : values) x = 0.5f * most * random.uniform();
    for (std::size_t i = 0; i < halves.size(); ++i) {
      kernels::from_float(values[i], &halves[i]);
      values[i] = kernels::to_float(halves[i]);
    }
  }
  void* data() { return type == DataType::f16 ? static_cast<void*>(halves.data()) : values.data(); }
  double at(std::int64_t i) const {
    return type == DataType::f16 ? kernels::to_float(halves[static_cast<std::size_t>(i)])
                                 : values[static_cast<std::size_t>(i)];
  }
};

template <class AnyTensor>
AnyTensor tensor(Data& data, std::int64_t heads, std::int64_t rows, std::int64_t dim) {
  return AnyTensor::bhsd(data.data(), 1, heads, rows, dim, data.type);
}

struct Call {
  Options o;
  Random random{0x9e3779b97f4a7c15ull};
  bool has_scores = o.what == "softmax_pv";
  // Rows of scores 64 elements apart from a power of two: equal sets of the cache
  // (bench/pipelines_bench.cpp).
  std::int64_t padding = 64;
  Data q{has_scores ? 0 : o.q_heads * o.q_len * o.dim, o.type, 1, random};
  Data k{has_scores ? 0 : o.kv_heads * o.kv_len * o.dim, o.type, 1, random};
  Data v{o.kv_heads * o.kv_len * o.dim, o.type, 1, random};
  Data scores{has_scores ? o.q_heads * o.q_len * (o.kv_len + padding) : 0, DataType::f32, 3, random};
  Data out{o.q_heads * o.q_len * o.dim, o.type, std::numeric_limits<float>::quiet_NaN(), random};
  float scale = has_scores              ? 1.0f
                : o.what == "attention" ? 1.0f / std::sqrt(static_cast<float>(o.dim))
                                        : 1.0f / static_cast<float>(o.dim);

  explicit Call(const Options& options) : o(options) {}

  template <class Args>
  Args args() {
    Args args;
    args.v = tensor<ConstTensor>(v, o.kv_heads, o.kv_len, o.dim);
    args.out = tensor<Tensor>(out, o.q_heads, o.q_len, o.dim);
    args.scale = scale;
    args.is_causal = o.is_causal;
    args.precision = o.precision;
    if constexpr (requires { args.q; }) {
      args.q = tensor<ConstTensor>(q, o.q_heads, o.q_len, o.dim);
      args.k = tensor<ConstTensor>(k, o.kv_heads, o.kv_len, o.dim);
    }
    if constexpr (requires { args.scores; }) {
      args.scores = tensor<ConstTensor>(scores, o.q_heads, o.q_len, o.kv_len);
      args.scores.stride[2] = o.kv_len + padding;
      args.scores.stride[1] = o.q_len * args.scores.stride[2];
      args.scores.stride[0] = o.q_heads * args.scores.stride[1];
    }
    if constexpr (requires { args.pipeline; }) args.pipeline = o.pipeline;
    return args;
  }

  Status run(const Context& context) {
    if (o.what == "softmax_pv") {
      const auto call = args<SoftmaxPvArgs>();
      a64fx_call_begins();
      const Status status = softmax_pv(context, call);
      a64fx_call_ends();
      return status;
    }
    if (o.what == "fused_gemm") {
      const auto call = args<FusedGemmArgs>();
      a64fx_call_begins();
      const Status status = fused_gemm(context, call);
      a64fx_call_ends();
      return status;
    }
    const auto call = args<AttentionArgs>();
    Plan prepared;
    if (const Status status = plan(context, call, &prepared); !status.ok()) return status;
    std::printf("%s", prepared.explain().c_str());
    a64fx_call_begins();
    const Status status = prepared.run(call);
    a64fx_call_ends();
    return status;
  }

  double score(std::int64_t head, std::int64_t row, std::int64_t key) const {
    if (has_scores) return scores.at((head * o.q_len + row) * (o.kv_len + padding) + key);
    const std::int64_t kv_head = head / (o.q_heads / o.kv_heads);
    double sum = 0;
    for (std::int64_t d = 0; d < o.dim; ++d)
      sum += q.at((head * o.q_len + row) * o.dim + d) * k.at((kv_head * o.kv_len + key) * o.dim + d);
    return sum * static_cast<double>(scale);
  }

  /// The largest error of a row, over the largest value that it could have.
  double error(std::int64_t head, std::int64_t row) const {
    const std::int64_t kv_head = head / (o.q_heads / o.kv_heads),
                       keys = o.is_causal ? row + 1 + o.kv_len - o.q_len : o.kv_len;
    std::vector<double> want(static_cast<std::size_t>(o.dim), 0.0);
    double total = 0;
    for (std::int64_t j = 0; j < keys; ++j) {
      const double s = score(head, row, j), p = o.what == "fused_gemm" ? s : std::exp(s);
      total += std::abs(p);
      for (std::int64_t d = 0; d < o.dim; ++d)
        want[static_cast<std::size_t>(d)] += p * v.at((kv_head * o.kv_len + j) * o.dim + d);
    }
    const double by = o.what == "fused_gemm" ? 1 : total;
    double worst = 0;
    for (std::int64_t d = 0; d < o.dim; ++d) {
      const double off =
          std::abs(want[static_cast<std::size_t>(d)] / by - out.at((head * o.q_len + row) * o.dim + d));
      if (!std::isnan(worst) && !(off <= worst)) worst = off;  // a NaN is kept
    }
    return worst * by / total;
  }
};

bool read(int argc, char** argv, Options* o) {
  if (argc < 10) return false;
  const std::string type = argv[2], precision = argv[3], pipeline = argv[4];
  const char* const pipelines[] = {"automatic", "online", "decode", "two_pass", "interleaved", "three_pass"};
  const auto found = std::find(std::begin(pipelines), std::end(pipelines), pipeline);
  if (found == std::end(pipelines) || (type != "f32" && type != "f16") ||
      (precision != "standard" && precision != "half"))
    return false;
  o->what = argv[1];
  o->type = type == "f16" ? DataType::f16 : DataType::f32;
  o->precision = precision == "half" ? Precision::half : Precision::standard;
  o->pipeline = static_cast<Pipeline>(found - std::begin(pipelines));
  std::int64_t* const sizes[] = {&o->q_heads, &o->kv_heads, &o->q_len, &o->kv_len, &o->dim};
  for (int i = 0; i < 5; ++i) *sizes[i] = std::atoll(argv[5 + i]);
  o->is_causal = argc > 10 && std::string(argv[10]) == "causal";
  if (o->what == "backward")
    return o->type == DataType::f32 && o->precision == Precision::standard &&
           o->pipeline == Pipeline::automatic && o->q_len == o->kv_len;
  return o->what == "attention" || o->what == "softmax_pv" || o->what == "fused_gemm";
}

/// Exit status of a call of attention_backward.
int run_backward(const Options& o, const Context& context) {
  GradientProblem problem({"backward", o.q_heads, o.kv_heads, o.q_len, o.dim, o.is_causal, o.type});
  BackwardPlan prepared;
  Status status = problem.forward(context);
  if (status.ok()) status = plan_backward(context, problem.args, &prepared);
  problem.poison();
  if (status.ok()) {
    std::printf("%s", prepared.explain().c_str());
    a64fx_call_begins();
    status = prepared.run(problem.args);
    a64fx_call_ends();
  }
  const std::string fault = status.ok() ? problem.check() : status.message();
  if (!fault.empty()) std::fprintf(stderr, "%s\n", fault.c_str());
  return fault.empty() ? 0 : 1;
}

int run(const Options& options) {
  ContextOptions settings;
  settings.num_threads = 1;
  settings.bind = "none";
  settings.executor = "serial";
  settings.isa = "sve512";
  // The emulator shows the caches of the machine that it runs on.
  settings.topology = "numa:1(memory=8589934592) l2:1(size=8388608) l1d:12(size=65536) core:1 pu:1";
  Context context;
  if (const Status status = Context::create(settings, &context); !status.ok())
    return std::fprintf(stderr, "%s\n", status.message().c_str()), 1;
  if (options.what == "backward") return run_backward(options, context);
  Call call(options);
  if (const Status status = call.run(context); !status.ok())
    return std::fprintf(stderr, "%s\n", status.message().c_str()), 1;
  const double limit = options.precision == Precision::half ? 4e-3
                       : options.type == DataType::f16      ? 1e-3
                                                            : 2e-6;
  for (const std::int64_t row : {std::int64_t{0}, options.q_len / 2, options.q_len - 1}) {
    const double error = call.error(options.q_heads - 1, row);
    if (!(error <= limit))
      return std::fprintf(stderr, "row %lld is off by %g\n", static_cast<long long>(row), error), 1;
  }
  return 0;
}

}  // namespace
}  // namespace kumiko::bench

int main(int argc, char** argv) {
  kumiko::bench::Options options;
  if (!kumiko::bench::read(argc, argv, &options))
    return std::fprintf(stderr, "a64fx_call: see the head of bench/a64fx_model/call.cpp\n"), 2;
  return kumiko::bench::run(options);
}
