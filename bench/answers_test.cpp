// SPDX-License-Identifier: Apache-2.0
// Tests the check behind every figure: for every problem of shapes.cpp the right answer passes, and an answer
// with a key left out, another scale, two rows swapped or a row of another call fails. Of the 64 sequences of
// a server's step, which take 4 GB, four are kept: no row's check looks at another sequence.
//
// "Right" is fp64 with the weights rounded as the type allows and the result rounded to the type, so that a
// fault has to show despite all the rounding that is allowed.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "bench/shapes.h"

namespace kumiko::bench {
namespace {

int failures = 0;

void expect(bool holds, const Shape& shape, const std::string& what) {
  if (holds) return;
  ++failures;
  std::printf("%s: %s\n", shape.name.c_str(), what.c_str());
}

// Writes the answer over `set` with `fault` into the problem's output; if the fault is in one head, only that
// head's rows.
void write(Problem& problem, int set, const Fault& fault) {
  const Shape& s = problem.shape();
  problem.answer(set, fault, [&](const Row& row) {
    if (fault.kv_head >= 0 && row.head / (s.q_heads / s.kv_heads) != fault.kv_head) return false;
    const std::int64_t at = problem.row_at(row.batch, row.head, row.row, s.v_head_dim);
    for (std::int64_t d = 0; d < s.v_head_dim; ++d)
      store_rounded(s.type, static_cast<float>(row.want[static_cast<std::size_t>(d)]),
                    problem.out() + (at + d) * bytes_of(s.type));
    return true;
  });
}

void check_case(const Case& c) {
  const Shape& s = c.shape;
  const bool rotates = c.limit == Limit::either;
  Problem problem(s, rotates ? Problem(s).cache().size() + 1 : 0);  // Two sets.
  const int set = problem.sets() - 1;

  // The answer is that of the definition.
  std::mutex mutex;
  Random random(1);
  const std::int64_t rows = s.q_heads * (s.cu_seqlens_q.empty() ? s.batch * s.q_len : s.cu_seqlens_q.back());
  std::vector<std::int64_t> sampled = {0, rows - 1};
  for (int i = 0; i < 6; ++i) sampled.push_back(random.below(rows));
  std::set<std::int64_t> compared;
  std::string wrong;
  problem.answer(set, {}, [&](const Row& row) {
    const std::int64_t index = problem.row_at(row.batch, row.head, row.row, 1);
    if (std::find(sampled.begin(), sampled.end(), index) == sampled.end()) return true;
    const std::vector<double> defined = problem.defined_row(set, row.batch, row.head, row.row);
    const std::lock_guard lock(mutex);
    compared.insert(index);
    for (std::size_t d = 0; d < defined.size(); ++d) {
      const double apart = std::abs(defined[d] - row.want[d]);
      if (!(apart < 1e-11)) wrong = std::to_string(apart);  // NaN, too
    }
    return true;
  });
  expect(wrong.empty(), s, "differs from the definition by " + wrong);
  expect(compared == std::set(sampled.begin(), sampled.end()), s, "rows that were to be compared were not");

  write(problem, set, {.rounds_weights = true});
  const std::string right = problem.check(set);
  expect(right.empty(), s, "the right answer is called: " + right);
  const std::vector<std::byte> whole(problem.out(), problem.out() + rows * s.v_head_dim * bytes_of(s.type));
  const std::int64_t row_bytes = s.v_head_dim * bytes_of(s.type);
  const auto row = [&](std::int64_t b, std::int64_t h, std::int64_t i) {
    return problem.out() + problem.row_at(b, h, i, s.v_head_dim) * bytes_of(s.type);
  };

  // Of packed sequences, the one that has several rows.
  const std::int64_t b = s.cu_seqlens_q.empty() ? s.batch - 1 : 0, h = s.q_heads > 1,
                     i = problem.q_len(b) - 1;
  if (s.q_heads > 1) {
    std::swap_ranges(row(b, h, i), row(b, h, i) + row_bytes, row(b, h - 1, i));
    expect(!problem.check(set).empty(), s, "rows of two heads changed places, unseen");
    std::copy(whole.begin(), whole.end(), problem.out());
  }
  if (s.q_len > 1) {
    std::swap_ranges(row(b, 0, i / 2), row(b, 0, i / 2) + row_bytes, row(b, 0, i / 2 + 1));
    expect(!problem.check(set).empty(), s, "neighbouring rows changed places, unseen");
    std::copy(whole.begin(), whole.end(), problem.out());
  }
  if (rotates) {  // A decode step finds the previous step's answer in the output.
    write(problem, 0, {.rounds_weights = true});
    const std::vector<std::byte> stale(row(b, h, i), row(b, h, i) + row_bytes);
    std::copy(whole.begin(), whole.end(), problem.out());
    std::copy(stale.begin(), stale.end(), row(b, h, i));
    expect(!problem.check(set).empty(), s, "a row of the set before, unseen");
    std::copy(whole.begin(), whole.end(), problem.out());
  }
  std::fill(row(b, h, i), row(b, h, i) + row_bytes, std::byte{0xff});  // The others, a row not written.
  expect(!problem.check(set).empty(), s, "a row that was not written, unseen");

  write(problem, set, {.scale = 1.01, .rounds_weights = true});
  expect(!problem.check(set).empty(), s, "a scale of 1.01, unseen");
  const std::int64_t used = s.seqused_k.empty() ? s.kv_len : s.seqused_k[static_cast<std::size_t>(b)];
  for (const std::int64_t key : {used - 1, used / 2, random.below(used)}) {
    std::copy(whole.begin(), whole.end(), problem.out());
    write(problem, set, {.kv_head = 0, .dropped_key = key, .rounds_weights = true});
    expect(!problem.check(set).empty(), s, "key " + std::to_string(key) + " left out, unseen");
  }
}

/// The shortest, the longest and two other sequences of a step.
Shape few_sequences(Shape s) {
  if (s.batch < 64) return s;
  const std::int64_t pages = std::ssize(s.block_table) / s.batch;
  std::vector<std::int32_t> used, table;
  for (const std::int64_t b : {0, 21, 42, 63}) used.push_back(s.seqused_k[static_cast<std::size_t>(b)]);
  s.seqused_k = std::move(used);
  s.batch = std::ssize(s.seqused_k);
  s.block_table.resize(static_cast<std::size_t>(s.batch * pages));
  if (!s.cu_seqlens_q.empty()) s.cu_seqlens_q.resize(static_cast<std::size_t>(s.batch) + 1);
  return s;
}

std::vector<Case> all_cases() {
  std::vector<Case> all = cases();
  for (const Case& c : server_cases()) {
    for (const std::int64_t page_keys : {16, 128})
      all.push_back({in_pages(few_sequences(c.shape), page_keys), c.limit});
  }
  for (const DataType type : {DataType::f32, DataType::bf16})
    all.push_back({few_sequences(mixed_step(type)), Limit::compute});
  all.push_back({block_sparse(DataType::f32, false), Limit::compute});
  all.push_back({token_tree(DataType::bf16, false), Limit::compute});
  all.push_back({latent_decode(DataType::f32, 128), Limit::either});
  all.push_back({in_pages(latent_decode(DataType::bf16, 16), 64), Limit::either});
  for (const std::int64_t page_keys : {16, 128})
    all.push_back({shared_prefix(DataType::bf16, page_keys, true), Limit::compute});
  return all;
}

}  // namespace
}  // namespace kumiko::bench

int main() {
  using namespace kumiko::bench;
  const std::vector<Case> all = all_cases();
  for (const Case& c : all) check_case(c);
  std::printf("%zu problems, %d failures\n", all.size(), failures);
  return failures != 0;
}
