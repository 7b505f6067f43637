// SPDX-License-Identifier: Apache-2.0
// The machine's limits, measured in the process that measures the workload: fused multiply-adds per second
// from registers and bytes per second read from memory, on a given set of cores at once. Every fraction that
// a benchmark reports is relative to one of these two, measured within milliseconds of the workload.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace kumiko::bench {

/// Register-only arithmetic of one instruction set. One row per ISA that the library has kernels for, best
/// first. avx512_bf16: products of bf16 pairs, the peak of its bf16 kernels; its f32 kernels are avx512's.
struct FmaRow {
  const char* isa;             ///< As in ContextOptions::isa.
  bool (*host_runs)();         ///< Asks the CPU, not the library, whose answer might be wrong and hide a row.
  double flops_per_iteration;  ///< An FMA counts as 2.
  void (*run)(std::int64_t iterations) noexcept;
};
std::span<const FmaRow> fma_rows();
/// nullptr if there is no such row.
const FmaRow* find_fma_row(const std::string& isa);

/// A way to read memory: `streams` equal parts of [data, data + bytes) in lock step, prefetching `prefetch`
/// bytes ahead (0: left to the hardware). `bytes` is a multiple of streams * 512. The returned sum keeps the
/// compiler from removing the loads.
struct ReadRow {
  const char* isa;
  int streams;
  int prefetch;
  std::uint64_t (*run)(const std::byte* data, std::size_t bytes) noexcept;
};
/// The rows that this host runs.
std::vector<ReadRow> host_read_rows();

/// One allowed CPU per core (the first of its hardware threads), in OS order.
std::vector<int> allowed_cores();

/// Keeps the calling thread, and the threads it starts, on `cpus` until the end of the scope.
class ScopedAffinity {
 public:
  explicit ScopedAffinity(std::span<const int> cpus);
  ~ScopedAffinity();
  ScopedAffinity(const ScopedAffinity&) = delete;
  ScopedAffinity& operator=(const ScopedAffinity&) = delete;

 private:
  std::vector<unsigned char> saved_;
};

/// Seconds for which a ceiling is measured next to a workload.
inline constexpr double kFmaWindow = 4e-3;
inline constexpr double kReadWindow = 10e-3;  // 350 MB on a Zen 5: longer than the prefetchers remember.

/// The clock of a rate: the CPU time of the process, or wall time. The workload of a row, its peers and its
/// ceilings use the same one.
enum class Clock { cpu, wall };
/// cpu for one thread, which does all the work: the clock stands still while another process has its core.
/// wall for more: waiting for other threads is part of the result.
constexpr Clock clock_of(int threads) {
  return threads == 1 ? Clock::cpu : Clock::wall;
}
/// Seconds since an arbitrary start.
double seconds_on(Clock clock);

/// FLOP/s of `row` with one thread on each of `cpus` during the same `seconds` of wall time; each thread's
/// rate is over its own CPU time or wall time.
double fma_flops(const FmaRow& row, std::span<const int> cpus, double seconds, Clock clock);

/// Bytes/s that one thread on each of `cpus` read together from a buffer of at least 4 KiB; to measure memory
/// it is much larger than the last-level cache. Each thread's rate is over its own CPU time or wall time. The
/// constructor (about 0.2 s) tries every row and keeps the two fastest, so that the ceiling is the machine's
/// and not that of one loop.
class ReadCeiling {
 public:
  ReadCeiling(std::span<const std::byte> buffer, std::span<const int> cpus, Clock clock);
  /// Reads another buffer from now on, with the same two rows.
  void read_from(std::span<const std::byte> buffer);
  double bytes_per_second(double seconds);
  std::string variant() const;

 private:
  double measure(const ReadRow& row, double seconds);

  std::span<const std::byte> buffer_;
  std::vector<int> cpus_;
  Clock clock_;
  std::vector<std::size_t>
      position_;  // Per thread, kept between calls so that short calls do not reread cached data.
  std::array<ReadRow, 2> best_{};  ///< Fastest first. Both are run: one may lose a few ms to other processes.
};

/// Seconds since an arbitrary start.
double now();
/// Seconds that the calling thread has run.
double thread_seconds();

}  // namespace kumiko::bench
