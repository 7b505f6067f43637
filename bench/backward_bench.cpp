// SPDX-License-Identifier: Apache-2.0
// attention_backward as a user calls it, on every ISA the host runs, with one thread and two. The work is
// that of five products, 2 * (3 head_dim + 2 v_head_dim) flops a visible pair, and the ceiling the peak of
// f32 multiply-adds, whatever the tensors' type.
#include <benchmark/benchmark.h>
#include <kumiko/attention_backward.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "bench/benchmark_rounds.h"
#include "bench/ceilings.h"
#include "bench/contexts.h"
#include "bench/machine_peak.h"

namespace kumiko::bench {
namespace {

struct Shape {
  const char* name;
  std::int64_t q_heads, kv_heads, len, dim;
  bool is_causal;
  DataType type;
};

constexpr Shape kShapes[] = {
    {"backward_dense_d128_h8x8_1024", 8, 8, 1024, 128, false, DataType::f32},
    {"backward_dense_d128_h8x8_4096", 8, 8, 4096, 128, false, DataType::f32},
    {"backward_causal_d128_h8x8_4096", 8, 8, 4096, 128, true, DataType::f32},
    {"backward_causal_d128_h32x8_1024", 32, 8, 1024, 128, true, DataType::f32},
    {"backward_dense_d64_h8x8_1024", 8, 8, 1024, 64, false, DataType::f32},
    {"backward_dense_d256_h8x8_1024", 8, 8, 1024, 256, false, DataType::f32},
    {"backward_dense_d128_h8x8_1024_bf16", 8, 8, 1024, 128, false, DataType::bf16},
    {"backward_causal_d128_h8x8_4096_bf16", 8, 8, 4096, 128, true, DataType::bf16},
};

/// Elements of one type, read and written as floats.
class Elements {
 public:
  Elements(std::int64_t count, DataType type)
      : type_(type), bytes_(static_cast<std::size_t>(count * (type == DataType::f32 ? 4 : 2))) {}
  void* data() { return bytes_.data(); }
  double operator[](std::int64_t i) const {
    std::uint32_t bits = 0;
    if (type_ == DataType::f32)
      std::memcpy(&bits, bytes_.data() + 4 * i, 4);
    else
      std::memcpy(reinterpret_cast<std::byte*>(&bits) + 2, bytes_.data() + 2 * i, 2);
    float value = 0;
    std::memcpy(&value, &bits, 4);
    return static_cast<double>(value);
  }
  void set(std::int64_t i, float value) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &value, 4);
    if (type_ == DataType::f32)
      std::memcpy(bytes_.data() + 4 * i, &bits, 4);
    else
      std::memcpy(bytes_.data() + 2 * i, reinterpret_cast<std::byte*>(&bits) + 2, 2);
  }
  void fill(std::uint64_t seed, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) {
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      set(i, (static_cast<float>(seed >> 40) * 0x1p-24f - 0.5f) * 3.0f);
    }
  }
  void poison() { std::memset(bytes_.data(), 0xff, bytes_.size()); }

 private:
  DataType type_;
  std::vector<std::byte> bytes_;
};

class Problem {
 public:
  explicit Problem(const Shape& shape)
      : shape_(shape),
        q_size_(shape.q_heads * shape.len * shape.dim),
        k_size_(shape.kv_heads * shape.len * shape.dim),
        q(q_size_, shape.type),
        k(k_size_, shape.type),
        v(k_size_, shape.type),
        out(q_size_, shape.type),
        dout(q_size_, shape.type),
        dq(q_size_, shape.type),
        dk(k_size_, shape.type),
        dv(k_size_, shape.type),
        lse_(static_cast<std::size_t>(shape.q_heads * shape.len)) {
    q.fill(1, q_size_), k.fill(2, k_size_), v.fill(3, k_size_), dout.fill(4, q_size_);
    const auto of_queries = [&](auto view, Elements& of) {
      return decltype(view)::bhsd(of.data(), 1, shape_.q_heads, shape_.len, shape_.dim, shape_.type);
    };
    const auto of_keys = [&](auto view, Elements& of) {
      return decltype(view)::bhsd(of.data(), 1, shape_.kv_heads, shape_.len, shape_.dim, shape_.type);
    };
    args.forward.q = of_queries(ConstTensor(), q);
    args.forward.k = of_keys(ConstTensor(), k), args.forward.v = of_keys(ConstTensor(), v);
    args.forward.out = of_queries(Tensor(), out), args.forward.lse.data = lse_.data();
    args.forward.is_causal = shape.is_causal;
    args.dout = of_queries(ConstTensor(), dout);
    args.dq = of_queries(Tensor(), dq), args.dk = of_keys(Tensor(), dk), args.dv = of_keys(Tensor(), dv);
  }

  const Shape& shape() const { return shape_; }
  double flops() const {
    const auto len = static_cast<double>(shape_.len);
    return 10.0 * static_cast<double>(shape_.q_heads * shape_.dim) *
           (shape_.is_causal ? len * (len + 1) / 2 : len * len);
  }
  void poison() { dq.poison(), dk.poison(), dv.poison(); }

  /// Compares some rows of each gradient, those next to borders of blocks among them, with the definition in
  /// double on the forward call's results. "" or a sentence.
  std::string check() const {
    for (const std::int64_t position :
         {std::int64_t{0}, std::int64_t{1}, std::int64_t{191}, std::int64_t{192}, std::int64_t{575},
          std::int64_t{576}, shape_.len - 1}) {
      for (const std::int64_t head : {std::int64_t{0}, shape_.kv_heads - 1}) {
        if (std::string fault = check_key(head, position); !fault.empty()) return fault;
        if (std::string fault = check_query(head * group() + group() - 1, position); !fault.empty())
          return fault;
      }
    }
    return {};
  }

  BackwardArgs args;

 private:
  using Row = std::vector<double>;
  std::int64_t group() const { return shape_.q_heads / shape_.kv_heads; }
  std::int64_t at(std::int64_t head, std::int64_t position) const {
    return (head * shape_.len + position) * shape_.dim;
  }
  double dot(const Elements& a, std::int64_t i, const Elements& b, std::int64_t j) const {
    double sum = 0;
    for (std::int64_t d = 0; d < shape_.dim; ++d) sum += a[i + d] * b[j + d];
    return sum;
  }
  struct Pair {
    double p, ds, size;  // of the terms that ds is the difference of
  };
  Pair pair(std::int64_t head, std::int64_t i, std::int64_t j) const {
    const std::int64_t of_q = at(head, i), of_k = at(head / group(), j);
    const double scale = 1 / std::sqrt(static_cast<double>(shape_.dim)),
                 p = std::exp(dot(q, of_q, k, of_k) * scale -
                              static_cast<double>(lse_[static_cast<std::size_t>(head * shape_.len + i)]));
    const double dp = dot(dout, of_q, v, of_k), delta = dot(dout, of_q, out, of_q);
    return {p, p * (dp - delta) * scale, p * (std::abs(dp) + std::abs(delta)) * scale};
  }
  std::string compare(const char* name, const Elements& got, std::int64_t from, const Row& want,
                      const Row& squares) const {
    // Rounded sums of independent terms, and the rounding of the result.
    const double of_sum = 1e-5, of_result = shape_.type == DataType::f32 ? 1e-6 : 0x1p-8;
    for (std::size_t d = 0; d < want.size(); ++d) {
      const double have = got[from + static_cast<std::int64_t>(d)];
      if (!(std::abs(have - want[d]) <= of_sum * std::sqrt(squares[d]) + of_result * std::abs(want[d])))
        return std::string(name) + "[" + std::to_string(from) + " + " + std::to_string(d) + "] is " +
               std::to_string(have) + ", expected " + std::to_string(want[d]);
    }
    return {};
  }
  void add(Row* sum, Row* squares, double weight, double size, const Elements& row, std::int64_t from) const {
    for (std::size_t d = 0; d < sum->size(); ++d) {
      const double x = row[from + static_cast<std::int64_t>(d)];
      (*sum)[d] += weight * x, (*squares)[d] += size * x * size * x;
    }
  }
  Row zeros() const { return Row(static_cast<std::size_t>(shape_.dim)); }
  std::string check_query(std::int64_t head, std::int64_t i) const {
    Row want = zeros(), squares = zeros();
    for (std::int64_t j = 0; j < (shape_.is_causal ? i + 1 : shape_.len); ++j) {
      const Pair both = pair(head, i, j);
      add(&want, &squares, both.ds, both.size, k, at(head / group(), j));
    }
    return compare("dq", dq, at(head, i), want, squares);
  }
  std::string check_key(std::int64_t kv_head, std::int64_t j) const {
    Row of_k = zeros(), k_squares = zeros(), of_v = zeros(), v_squares = zeros();
    for (std::int64_t head = kv_head * group(); head < (kv_head + 1) * group(); ++head) {
      for (std::int64_t i = shape_.is_causal ? j : 0; i < shape_.len; ++i) {
        const Pair both = pair(head, i, j);
        add(&of_k, &k_squares, both.ds, both.size, q, at(head, i));
        add(&of_v, &v_squares, both.p, both.p, dout, at(head, i));
      }
    }
    const std::string fault = compare("dk", dk, at(kv_head, j), of_k, k_squares);
    return fault.empty() ? compare("dv", dv, at(kv_head, j), of_v, v_squares) : fault;
  }

  const Shape shape_;
  const std::int64_t q_size_, k_size_;
  Elements q, k, v, out, dout, dq, dk, dv;
  std::vector<float> lse_;
};

/// The benchmarks of a shape follow each other.
Problem& problem_of(const Shape& shape) {
  static std::unique_ptr<Problem> last;
  if (!last || last->shape().name != shape.name) {
    last.reset();
    last = std::make_unique<Problem>(shape);
  }
  return *last;
}

void backward(benchmark::State& state, const Shape& shape, const FmaRow& row, int threads) {
  Problem& problem = problem_of(shape);
  Context context;
  Status status = context_for(row.isa, threads, &context);
  if (status.ok()) status = attention_forward(context, problem.args.forward);
  if (!status.ok()) return state.SkipWithError(status.message().c_str());
  const std::vector<int> cores = first_cores(threads);
  const ScopedAffinity affinity(cores);
  const auto run = [&] {
    if (const Status s = attention_backward(context, problem.args); !s.ok()) status = s;
  };
  problem.poison();
  run();
  const std::string fault = status.ok() ? problem.check() : status.message();
  if (!fault.empty()) return state.SkipWithError(fault.c_str());
  report_compute(state, measure_rounds(
                            state, problem.flops(),
                            [&] {
                              return seconds_per_call(
                                  kWorkWindow, [threads] { return seconds_on(clock_of(threads)); }, run);
                            },
                            [&] { return fma_flops(row, cores, kFmaWindow, clock_of(threads)); }));
}

void register_all() {
  std::vector<int> counts = {1};
  if (allowed_cores().size() > 1) counts.push_back(2);
  for (const Shape& shape : kShapes) {
    for (const FmaRow& row : fma_rows()) {
      const std::string isa = row.isa;
      if (!row.host_runs() || isa == "reference" || isa == "avx512_bf16") continue;  // avx512's products
      for (const int threads : counts)
        benchmark::RegisterBenchmark(
            (std::string(shape.name) + "/" + isa + "/t" + std::to_string(threads)).c_str(),
            [=, &row](benchmark::State& state) { backward(state, shape, row, threads); })
            ->UseManualTime()
            ->Unit(benchmark::kMillisecond)
            ->Iterations(kCallRounds);
    }
  }
}

}  // namespace
}  // namespace kumiko::bench

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  kumiko::bench::register_all();
  benchmark::RunSpecifiedBenchmarks();
}
