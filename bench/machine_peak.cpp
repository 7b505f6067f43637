// SPDX-License-Identifier: Apache-2.0
#include "bench/machine_peak.h"

#include <sched.h>
#include <time.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstring>
#include <fstream>
#include <functional>
#include <thread>

#include "bench/machine_peak/rows.h"
#include "kernels/cpu.h"

namespace kumiko::bench {
namespace {

bool always() {
  return true;
}

#if defined(__x86_64__)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
bool has_avx512_bf16() {
  return __builtin_cpu_supports("avx512bf16");
}
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#elif defined(__aarch64__)
bool has_sve512() {
  return (kernels::host_isas() & kernels::bit(kernels::Isa::sve512)) != 0;
}
#endif

void pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof set, &set);
}

// Runs body(thread) on one pinned thread per CPU, all started by one barrier, and returns the sum of their
// results. The calling thread only waits, so its own affinity is unchanged.
double on_each(std::span<const int> cpus, const std::function<double(std::size_t)>& body) {
  std::barrier start(static_cast<std::ptrdiff_t>(cpus.size()));
  std::vector<double> result(cpus.size());
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < cpus.size(); ++t) {
    threads.emplace_back([&, t] {
      pin(cpus[t]);
      start.arrive_and_wait();
      result[t] = body(t);
    });
  }
  for (auto& thread : threads) thread.join();
  double sum = 0;
  for (double r : result) sum += r;
  return sum;
}

// Calls `step` repeatedly for `seconds` of wall time, at least once; returns how long that took this thread
// by `clock`.
template <class Step>
double seconds_of(double seconds, Clock clock, Step step) {
  const auto read = clock == Clock::cpu ? thread_seconds : now;
  const double begin = now(), began = read();
  do {
    step();
  } while (now() - begin < seconds);
  return read() - began;
}

double read_clock(clockid_t id) {
  timespec t{};
  clock_gettime(id, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

}  // namespace

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double thread_seconds() {
  return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

double seconds_on(Clock clock) {
  return clock == Clock::cpu ? read_clock(CLOCK_PROCESS_CPUTIME_ID) : now();
}

std::span<const FmaRow> fma_rows() {
  static const FmaRow rows[] = {
#if defined(__x86_64__)
    {"avx512_bf16", has_avx512_bf16, kDotAvx512Bf16Flops, dot_avx512_bf16},
    {"avx512", has_avx512, kFmaAvx512Flops, fma_avx512},
    {"avx2", has_avx2, kFmaAvx2Flops, fma_avx2},
#elif defined(__aarch64__)
    {"sve512", has_sve512, kFmaSve512Flops, fma_sve512},
    {"neon", always, kFmaNeonFlops, fma_neon},
#endif
    {"reference", always, kFmaReferenceFlops, fma_reference},
  };
  return rows;
}

const FmaRow* find_fma_row(const std::string& isa) {
  for (const FmaRow& row : fma_rows()) {
    if (isa == row.isa) return &row;
  }
  return nullptr;
}

std::vector<ReadRow> host_read_rows() {
  std::vector<ReadRow> rows;
  const auto append = [&](std::span<const ReadRow> more) {
    rows.insert(rows.end(), more.begin(), more.end());
  };
#if defined(__x86_64__)
  if (has_avx512()) append(read_rows_avx512());
  if (has_avx2()) append(read_rows_avx2());
#elif defined(__aarch64__)
  if (has_sve512()) append(read_rows_sve512());
  append(read_rows_neon());
#endif
  append(read_rows_reference());
  return rows;
}

std::vector<int> allowed_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof set, &set);
  std::vector<int> cores;
  std::vector<std::string>
      seen;  // The sibling list identifies a core; where it is unknown every CPU counts as a core.
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &set)) continue;
    std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                       "/topology/thread_siblings_list");
    std::string siblings;
    if (!std::getline(file, siblings)) siblings = "cpu " + std::to_string(cpu);
    if (std::find(seen.begin(), seen.end(), siblings) != seen.end()) continue;
    seen.push_back(siblings);
    cores.push_back(cpu);
  }
  return cores;
}

ScopedAffinity::ScopedAffinity(std::span<const int> cpus) : saved_(sizeof(cpu_set_t)) {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof set, &set);
  std::memcpy(saved_.data(), &set, sizeof set);
  CPU_ZERO(&set);
  for (int cpu : cpus) CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof set, &set);
}

ScopedAffinity::~ScopedAffinity() {
  sched_setaffinity(0, saved_.size(), reinterpret_cast<const cpu_set_t*>(saved_.data()));
}

double fma_flops(const FmaRow& row, std::span<const int> cpus, double seconds, Clock clock) {
  constexpr std::int64_t kChunk = 4096;  // 3-30 us, against 25 ns to read the clock.
  return on_each(cpus, [&](std::size_t) {
    std::int64_t chunks = 0;
    const double spent = seconds_of(seconds, clock, [&] {
      row.run(kChunk);
      ++chunks;
    });
    return static_cast<double>(chunks * kChunk) * row.flops_per_iteration / spent;
  });
}

ReadCeiling::ReadCeiling(std::span<const std::byte> buffer, std::span<const int> cpus, Clock clock)
    : buffer_(buffer), cpus_(cpus.begin(), cpus.end()), clock_(clock), position_(cpus.size()) {
  // Two passes: a quick one over all, then the best four again for longer, so that one disturbed moment does
  // not decide.
  std::vector<std::pair<double, ReadRow>> tried;
  for (const ReadRow& row : host_read_rows()) tried.emplace_back(measure(row, 2e-3), row);
  const auto faster = [](const auto& a, const auto& b) { return a.first > b.first; };
  std::sort(tried.begin(), tried.end(), faster);
  tried.resize(std::min<std::size_t>(tried.size(), 4));
  for (auto& [rate, row] : tried) rate = 0;
  for (int round = 0; round < 3; ++round) {
    for (auto& [rate, row] : tried) rate = std::max(rate, measure(row, 8e-3));
  }
  std::sort(tried.begin(), tried.end(), faster);
  for (std::size_t i = 0; i < best_.size(); ++i) best_[i] = tried[std::min(i, tried.size() - 1)].second;
}

void ReadCeiling::read_from(std::span<const std::byte> buffer) {
  if (buffer.data() == buffer_.data() && buffer.size() == buffer_.size()) return;
  buffer_ = buffer;
  std::fill(position_.begin(), position_.end(), 0);
}

double ReadCeiling::measure(const ReadRow& row, double seconds) {
  constexpr std::size_t kLook = std::size_t{1} << 21;  // 40-200 us between readings of the clock.
  constexpr std::size_t kLeast = 8 * 512;              // A multiple of what any row reads at a time.
  // A smaller buffer is read whole by every thread, as a call reads small keys and values.
  const bool is_split = buffer_.size() / cpus_.size() >= kLeast;
  const std::size_t share = buffer_.size() / (is_split ? cpus_.size() : 1) / kLeast * kLeast;
  const std::size_t chunk = std::min(kLook, share), part = share / chunk * chunk;
  return on_each(cpus_, [&](std::size_t t) {
    const std::byte* data = buffer_.data() + (is_split ? t * part : 0);
    std::size_t bytes = 0;
    std::uint64_t sum = 0;
    const double spent = seconds_of(seconds, clock_, [&] {
      for (std::size_t read = 0; read < kLook; read += chunk) {
        sum += row.run(data + position_[t], chunk);
        position_[t] = position_[t] + 2 * chunk <= part ? position_[t] + chunk : 0;
        bytes += chunk;
      }
    });
    asm volatile("" : : "r"(sum));
    return static_cast<double>(bytes) / spent;
  });
}

double ReadCeiling::bytes_per_second(double seconds) {
  double fastest = 0;
  for (const ReadRow& row : best_) fastest = std::max(fastest, measure(row, seconds));
  return fastest;
}

std::string ReadCeiling::variant() const {
  return std::string(best_[0].isa) + ", " + std::to_string(best_[0].streams) + " streams, prefetch " +
         std::to_string(best_[0].prefetch) + " B";
}

}  // namespace kumiko::bench
