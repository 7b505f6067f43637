// SPDX-License-Identifier: Apache-2.0
#include "bench/append_step.h"

#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstring>
#include <numeric>
#include <thread>

#ifdef __x86_64__
#include <emmintrin.h>
#endif

namespace kumiko::bench {
namespace {

constexpr std::int64_t kDecodes = 64;  // up to 64 tokens are one of each sequence; more are a chunk
constexpr double kCopyWindow = 10e-3;  // seconds of each way to copy

std::size_t sz(std::int64_t n) {
  return static_cast<std::size_t>(n);
}

struct Row {
  std::byte* to;
  const std::byte* from;
};

/// 64 bytes, aligned to them.
void store_past_caches(std::byte* to, const std::byte (&line)[64]) {
#ifdef __x86_64__
  for (int at = 0; at < 64; at += 16)
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + at),
                     _mm_loadu_si128(reinterpret_cast<const __m128i*>(line + at)));
#else
  std::memcpy(to, line, sizeof line);
#endif
}

/// Copies 64 bytes at a time, with non-temporal stores if `past_caches`. Not by memcpy of a whole row: glibc
/// may copy rows of a few KiB with `rep movsb`, which no code that computes can use. For each line it
/// prefetches one of `ahead`, unless that is null.
template <bool past_caches>
void copy_lines(const Row& row, const Row& ahead, std::int64_t bytes) {
  for (std::int64_t at = 0; at < bytes; at += 64) {
    if (ahead.to) {
      __builtin_prefetch(ahead.from + at, 0);
      if (!past_caches) __builtin_prefetch(ahead.to + at, 1);
    }
    std::byte line[64];
    std::memcpy(line, row.from + at, sizeof line);
    if constexpr (past_caches)
      store_past_caches(row.to + at, line);
    else
      std::memcpy(row.to + at, line, sizeof line);
    asm volatile("" ::: "memory");  // otherwise the compiler makes a call of memcpy out of the loop
  }
}

/// The number of steps whose reads and writes together exceed the caches and whose tokens fill whole pages.
std::int64_t steps_beyond_caches(std::int64_t bytes_of_step, std::int64_t page) {
  const auto beyond = static_cast<std::int64_t>(bytes_beyond_caches());
  return (beyond / bytes_of_step + page) / page * page;
}

}  // namespace

AppendStep::AppendStep(DataType type, std::int64_t tokens)
    : type_(type),
      tokens_(tokens),
      steps_(steps_beyond_caches(static_cast<std::int64_t>(bytes()), kPage)),
      query_(sz(steps_ * tokens * kQueryHeads * kDim * bytes_of(type))),
      key_(sz(steps_ * tokens * kHeads * kDim * bytes_of(type))),
      value_(sz(steps_ * tokens * kHeads * kDim * bytes_of(type))),
      query_out_(sz(steps_ * tokens * kQueryHeads * kDim * bytes_of(type))),
      key_cache_(sz(steps_ * tokens * kHeads * kDim * bytes_of(type))),
      value_cache_(sz(steps_ * tokens * kHeads * kDim * bytes_of(type))) {
  Random random(0x5bd1e995u);
  const auto fill = [&](Pages& memory, std::int64_t heads) {
    for (std::int64_t i = 0; i < steps_ * tokens_ * heads * kDim; ++i)
      store_rounded(type_, random.uniform(), memory.data() + i * bytes_of(type_));
  };
  fill(query_, kQueryHeads), fill(key_, kHeads), fill(value_, kHeads);
  std::vector<std::int64_t> pages(sz(steps_ * tokens_ / kPage));
  std::iota(pages.begin(), pages.end(), 0);
  for (auto i = static_cast<std::int64_t>(pages.size()); i > 1; --i)
    std::swap(pages[sz(i - 1)], pages[sz(random.below(i))]);
  for (std::int64_t step = 0; step < steps_; ++step) {
    for (std::int64_t t = 0; t < tokens_; ++t) {
      // A chunk fills pages; decodes write the same row of a page of each sequence, the next one a step
      // later.
      const std::int64_t page =
          tokens_ > kDecodes ? (step * tokens_ + t) / kPage : step / kPage * tokens_ + t;
      slots_.push_back(pages[sz(page)] * kPage + (tokens_ > kDecodes ? t : step) % kPage);
      positions_.push_back(position(step, t));
    }
  }
  for (std::int64_t p = 0; p < kPositions; ++p) {
    for (std::int64_t i = 0; i < kDim / 2; ++i) {
      const double angle = static_cast<double>(p) *
                           std::pow(kTheta, -2.0 * static_cast<double>(i) / static_cast<double>(kDim));
      cos_.push_back(static_cast<float>(std::cos(angle)));
      sin_.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  poison();
}

std::int64_t AppendStep::position(std::int64_t step, std::int64_t token) const {
  return (tokens_ > kDecodes ? step * tokens_ + token : 97 * token + step) % kPositions;
}

double AppendStep::bytes() const {
  return static_cast<double>(2 * tokens_ * (kQueryHeads + 2 * kHeads) * kDim * bytes_of(type_));
}

KvAppendArgs AppendStep::next() {
  const std::int64_t first = now_ * tokens_, pages = steps_ * tokens_ / kPage;
  const auto at = [&](const Pages& memory, std::int64_t heads) {
    return memory.data() + first * heads * kDim * bytes_of(type_);
  };
  KvAppendArgs args;
  args.key = ConstTensor::bshd(at(key_, kHeads), 1, tokens_, kHeads, kDim, type_);
  args.value = ConstTensor::bshd(at(value_, kHeads), 1, tokens_, kHeads, kDim, type_);
  args.key_cache = Tensor::bshd(key_cache_.data(), pages, kPage, kHeads, kDim, type_);
  args.value_cache = Tensor::bshd(value_cache_.data(), pages, kPage, kHeads, kDim, type_);
  args.slot_mapping = slots_.data() + first;
  args.query = ConstTensor::bshd(at(query_, kQueryHeads), 1, tokens_, kQueryHeads, kDim, type_);
  args.query_out = Tensor::bshd(at(query_out_, kQueryHeads), 1, tokens_, kQueryHeads, kDim, type_);
  args.rotary_dim = kDim;
  args.positions = positions_.data() + first;
  args.rope_cos = cos_.data(), args.rope_sin = sin_.data();
  args.rope_positions = kPositions;
  now_ = (now_ + 1) % steps_;
  return args;
}

void AppendStep::copy(std::int64_t step, std::int64_t first, std::int64_t last, const WayToCopy& way) {
  struct Rows {
    const Pages& from;
    Pages& to;
    std::int64_t bytes;
    bool in_slots;
  };
  const std::int64_t element = bytes_of(type_);
  const Rows all[] = {{value_, value_cache_, kHeads * kDim * element, true},
                      {key_, key_cache_, kHeads * kDim * element, true},
                      {query_, query_out_, kQueryHeads * kDim * element, false}};
  const auto row_of = [&](const Rows& rows, std::int64_t t) {
    const std::int64_t token = step * tokens_ + t, to = rows.in_slots ? slots_[sz(token)] : token;
    return Row{rows.to.data() + to * rows.bytes, rows.from.data() + token * rows.bytes};
  };
  const auto copy_token = [&](const Rows& rows, std::int64_t t) {
    const std::int64_t ahead = t + way.tokens_ahead;
    const auto copy = rows.in_slots && way.past_caches ? copy_lines<true> : copy_lines<false>;
    copy(row_of(rows, t), ahead > t && ahead < last ? row_of(rows, ahead) : Row{}, rows.bytes);
  };
  if (way.by_token) {
    for (std::int64_t t = first; t < last; ++t) {
      for (const Rows& rows : all) copy_token(rows, t);
    }
  } else {
    for (const Rows& rows : all) {
      for (std::int64_t t = first; t < last; ++t) copy_token(rows, t);
    }
  }
}

double AppendStep::copy_rate(std::span<const int> cpus, Clock clock, const WayToCopy& way) {
  std::barrier start(static_cast<std::ptrdiff_t>(cpus.size()));
  std::vector<double> rates(cpus.size());
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < cpus.size(); ++t) {
    threads.emplace_back([&, t] {
      const ScopedAffinity affinity(cpus.subspan(t, 1));
      const auto count = static_cast<std::int64_t>(cpus.size()), own = static_cast<std::int64_t>(t);
      start.arrive_and_wait();
      const auto read = clock == Clock::cpu ? thread_seconds : now;
      const double begin = now(), began = read();
      std::int64_t copied = 0;
      for (std::int64_t step = now_; copied == 0 || now() - begin < kCopyWindow;
           step = (step + 1) % steps_, ++copied)
        copy(step, tokens_ * own / count, tokens_ * (own + 1) / count, way);
      rates[t] = bytes() * static_cast<double>(copied) / static_cast<double>(count) / (read() - began);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return std::accumulate(rates.begin(), rates.end(), 0.0);
}

double AppendStep::copy_ceiling(std::span<const int> cpus, Clock clock) {
  double best = 0;
  for (const WayToCopy way : {WayToCopy{true, 0},
                              {false, 0},
                              {true, 1},
                              {false, 1},
                              {false, 2},
                              {true, 0, true},
                              {false, 0, true},
                              {false, 1, true}}) {
    if (way.past_caches && tokens_ > kDecodes) continue;
    now_ = (now_ + steps_ / 2) % steps_;  // away from what the caches hold
    best = std::max(best, copy_rate(cpus, clock, way));
  }
  return best;
}

void AppendStep::poison() {
  for (const auto& [memory, heads] : {std::pair(&query_out_, kQueryHeads), std::pair(&key_cache_, kHeads),
                                      std::pair(&value_cache_, kHeads)})
    std::memset(memory->data(), 0xff, sz(steps_ * tokens_ * heads * kDim * bytes_of(type_)));
  now_ = 0;
}

std::string AppendStep::check_rows(const char* what, std::int64_t step, std::int64_t token,
                                   std::int64_t heads, const std::byte* in, const std::byte* out,
                                   bool is_rotated) const {
  const auto read = [&](const std::byte* rows, std::int64_t i) {
    return static_cast<double>(load_widened(type_, rows + i * bytes_of(type_)));
  };
  const std::int64_t half = kDim / 2;
  for (std::int64_t h = 0; h < heads; ++h) {
    for (std::int64_t d = 0; d < kDim; ++d) {
      const std::int64_t row = h * kDim, i = d % half;
      const double angle = static_cast<double>(position(step, token)) *
                           std::pow(kTheta, -2.0 * static_cast<double>(i) / static_cast<double>(kDim));
      const double own = read(in, row + d), partner = read(in, row + (d + half) % kDim);
      const double want =
          is_rotated ? own * std::cos(angle) + (d < half ? -partner : partner) * std::sin(angle) : own;
      const double got = read(out, row + d);
      const double rounding = type_ == DataType::f32 ? 0x1p-21 : 0x1p-7;  // of numbers below 4
      if (std::fabs(got - want) <= rounding) continue;
      return std::string(what) + " of token " + std::to_string(token) + " in step " + std::to_string(step) +
             ", head " + std::to_string(h) + " is " + std::to_string(got) + " at dim " + std::to_string(d) +
             ", expected " + std::to_string(want);
    }
  }
  return {};
}

std::string AppendStep::check() const {
  for (const std::int64_t step : {std::int64_t{0}, steps_ - 1}) {
    for (std::int64_t t = 0; t < tokens_; ++t) {
      const std::int64_t token = step * tokens_ + t, slot = slots_[sz(token)];
      const auto row = [&](const Pages& memory, std::int64_t at, std::int64_t heads) {
        return memory.data() + at * heads * kDim * bytes_of(type_);
      };
      for (std::string wrong : {check_rows("the query", step, t, kQueryHeads, row(query_, token, kQueryHeads),
                                           row(query_out_, token, kQueryHeads), true),
                                check_rows("the key", step, t, kHeads, row(key_, token, kHeads),
                                           row(key_cache_, slot, kHeads), true),
                                check_rows("the value", step, t, kHeads, row(value_, token, kHeads),
                                           row(value_cache_, slot, kHeads), false)}) {
        if (!wrong.empty()) return wrong;
      }
    }
  }
  return {};
}

}  // namespace kumiko::bench
