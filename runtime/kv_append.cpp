// SPDX-License-Identifier: Apache-2.0
// kv_append: rows of new tokens into a cache.
#include "runtime/kv_append.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "kernels/append/append.h"
#include "kernels/float_state.h"
#include "kernels/key_tiles/key_tiles.h"
#include "runtime/append_tasks.h"
#include "runtime/context.h"
#include "runtime/partition.h"
#include "runtime/problem.h"
#include "runtime/validate.h"

namespace kumiko {
namespace {

using kernels::AppendArgs;
using kernels::AppendKernel;
using kernels::bytes_of;
using kernels::RotaryPairs;
using kernels::RowRange;

// Tokens of a task. Their values, then their keys, then their queries are written: token by token, each with
// its three tensors, 512 tokens take 1.05 to 1.2 times as long (Zen 5), and with 16 tokens at a time 1.02 to
// 1.11 times (Zen 4).
constexpr std::int64_t kTaskTokens = 64;
// Tasks for each thread, for balance, where the tokens are many enough. 8 tasks of 8 tokens instead of one of
// 64 take 1.11 to 1.24 times as long.
constexpr std::int64_t kTasksPerThread = 2;
// A call that reads and writes fewer bytes is one task, on the caller's thread: it takes some 20 us, and
// waking another thread would take a good part of that (64 tokens of 32/8 heads of 128 f32, 3 MiB, 145 us on
// one thread).
constexpr double kLeastSharedBytes = 512 << 10;
// Where keys lie in tiles, a task goes on to the end of its last tile.
constexpr std::int64_t kMostTaskTokens = kTaskTokens + kernels::kTileKeys - 1;

struct Factors {
  const float *cos = nullptr, *sin = nullptr;
};

/// cos and sin of `pairs` pairs as the kernels take them; `scratch` holds 4 * pairs floats.
template <class CosSin>
Factors spread(RotaryPairs style, std::int64_t pairs, float* scratch, CosSin cos_sin) {
  const bool is_adjacent = style == RotaryPairs::adjacent;
  float *cos = scratch, *sin = scratch + (is_adjacent ? 2 : 1) * pairs;
  for (std::int64_t i = 0; i < pairs; ++i) {
    const auto [c, s] = cos_sin(i);
    if (is_adjacent) {
      cos[2 * i] = cos[2 * i + 1] = c;
      sin[2 * i] = -s, sin[2 * i + 1] = s;
    } else {
      cos[i] = c, sin[i] = s;
    }
  }
  return {cos, sin};
}

/// Where a token is: its row of its batch entry, and its row of its page; page -1: it has no slot. is_alone:
/// the token before it does not go to the row before, nor the next one to the row after, so that it is the
/// only new token of its sequence.
struct Place {
  std::int64_t entry, row, page, page_row;
  bool is_alone;
};

/// Tensors whose rows are written one token after the other, all heads of one at a time.
struct TensorRows {
  const AppendKernel& kernel;
  const ConstTensor& from;
  const Tensor& to;
  bool in_pages;

  /// The strides of tensors without heads may be anything.
  std::int64_t heads() const { return from.shape[1]; }
  bool has(const Place& place) const { return !in_pages || place.page >= 0; }
  const void* in(const Place& place) const {
    return kernels::element_at(kernel.from, from.data,
                               place.entry * from.stride[0] + place.row * from.stride[2]);
  }
  void* out(const Place& place) const {
    const std::int64_t entry = in_pages ? place.page : place.entry,
                       row = in_pages ? place.page_row : place.row;
    return kernels::element_at(kernel.to, to.data, entry * to.stride[0] + row * to.stride[2]);
  }
};

/// All rows that are read and written, in order, for kernels that fetch ahead. Made only if they do: without
/// it 64 tokens take 0.94 to 1.00 of the time (Zen 4).
struct RowsAhead {
  static constexpr std::int64_t kMost = 3 * kMostTaskTokens;
  RowRange reads[kMost + 1], writes[kMost + 1];
  std::int64_t count = 0;

  void add(const TensorRows& rows, const Place& place) {
    const std::int64_t heads = rows.heads(), dim = rows.from.shape[3], read = bytes_of(rows.kernel.from),
                       written = bytes_of(rows.kernel.to);
    const bool has_strides = heads > 1;  // That of a single head may be anything.
    reads[count] = {static_cast<const char*>(rows.in(place)), has_strides ? rows.from.stride[1] * read : 0,
                    dim * read, heads};
    writes[count] = {static_cast<const char*>(rows.out(place)), has_strides ? rows.to.stride[1] * written : 0,
                     dim * written, heads};
    ++count;
  }
  /// An entry behind the last row, without end: what is fetched there is in the caches already.
  void end() {
    for (RowRange* ranges : {reads, writes}) {
      if (count > 0) ranges[count] = {ranges[count - 1].row, 0, ranges[count - 1].width, kernels::kNoEnd};
    }
  }
};

struct Append {
  const KvAppendArgs& args;
  const AppendKernel &key, &value, *query;
  const kernels::KeyTilesKernel* tiles;  // nullptr: keys in rows
  RotaryPairs pairs;
  std::vector<double> frequencies;  // without tables: [rotary_dim / 2], radians a position
  std::int64_t tokens;
  std::int64_t ahead;  // CoreTuning::append_ahead
  /// Keys and values of tokens that are alone go past the CPU's caches, because attention reads each with
  /// thousands of others. Those of a chunk do not: its attention begins with them, and would wait for memory.
  bool past_caches = false;
  AppendTasks work{};
  Tracer* tracer = nullptr;
  std::int32_t run = 0;  // of the trace

  TensorRows values() const { return {value, args.value, args.value_cache, true}; }
  TensorRows keys() const { return {key, args.key, args.key_cache, true}; }
  TensorRows queries() const { return {*query, args.query, args.query_out, false}; }

  /// Bytes that one token's keys and values take in the caches, and all that is read and written for it.
  std::int64_t cache_bytes() const {
    const std::int64_t heads = args.key.shape[1];
    return heads * (args.key.shape[3] * bytes_of(key.to) + args.value.shape[3] * bytes_of(value.to));
  }
  std::int64_t all_bytes() const {
    const std::int64_t heads = args.key.shape[1], dim = args.key.shape[3],
                       query_bytes = query ? bytes_of(query->from) + bytes_of(query->to) : 0;
    return cache_bytes() + heads * (dim * bytes_of(key.from) + args.value.shape[3] * bytes_of(value.from)) +
           args.query.shape[1] * dim * query_bytes;
  }

  std::int64_t bytes_of_stored(std::int64_t first, std::int64_t last) const {
    if (!tracer) return 0;
    return cache_bytes() * std::count_if(args.slot_mapping + first, args.slot_mapping + last,
                                         [](std::int64_t slot) { return slot >= 0; });
  }

  Factors factors(std::int64_t token, float* scratch) const {
    if (pairs == RotaryPairs::none) return {};
    const std::int64_t half = args.rotary_dim / 2, position = args.positions[token];
    if (!args.rope_cos) {
      const double scaled = static_cast<double>(position) * args.rope_scale;
      return spread(pairs, half, scratch, [&](std::int64_t i) {
        const double angle = scaled * frequencies[static_cast<std::size_t>(i)];
        return std::pair(static_cast<float>(std::cos(angle)), static_cast<float>(std::sin(angle)));
      });
    }
    const std::int64_t at = position * (args.rope_stride > 0 ? args.rope_stride : half);
    const float *cos = args.rope_cos + at, *sin = args.rope_sin + at;
    if (pairs == RotaryPairs::halves) {
      for (std::int64_t i = 0; i < half; i += 16) __builtin_prefetch(cos + i), __builtin_prefetch(sin + i);
      return {cos, sin};
    }
    return spread(pairs, half, scratch, [&](std::int64_t i) { return std::pair(cos[i], sin[i]); });
  }

  std::size_t factor_floats() const {
    return static_cast<std::size_t>(kMostTaskTokens * 2 * args.rotary_dim);
  }
  std::size_t scratch_bytes() const {
    const std::size_t rows = tiles ? static_cast<std::size_t>(kernels::kTileKeys * args.key.shape[3]) : 0;
    return (factor_floats() + rows) * sizeof(float);
  }

  /// Writes the keys of tokens [first, last), whose slots follow one another within a tile, by way of `rows`,
  /// which holds 16 rows: as many heads at a time as fit.
  void tile_columns(std::int64_t first, std::int64_t last, const Factors* turns, AppendArgs how,
                    void* rows) const {
    const ConstTensor& in = args.key;
    const Tensor& out = args.key_cache;
    const std::int64_t dim = in.shape[3], count = last - first, seq = in.shape[2], page_size = out.shape[2],
                       slot = args.slot_mapping[first], row = slot % page_size,
                       most = kernels::kTileKeys / count;
    how.dim = dim;
    for (std::int64_t head = 0; head < in.shape[1]; head += most) {
      how.rows = std::min(most, in.shape[1] - head);
      for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t token = first + i;
        how.cos = turns[i].cos, how.sin = turns[i].sin;
        how.in = kernels::element_at(
            key.from, in.data, token / seq * in.stride[0] + head * in.stride[1] + token % seq * in.stride[2]);
        how.in_stride = in.stride[1];
        how.out = kernels::element_at(key.to, rows, i * dim);
        how.out_stride = count * dim;
        key.rows(how);
      }
      for (std::int64_t h = 0; h < how.rows; ++h) {
        const std::int64_t at = slot / page_size * out.stride[0] + (head + h) * out.stride[1] +
                                row / kernels::kTileKeys * kernels::kTileKeys * out.stride[2];
        tiles->from_rows({kernels::element_at(key.to, out.data, at), row % kernels::kTileKeys, count,
                          kernels::element_at(key.to, rows, h * count * dim), dim, dim});
      }
    }
  }
  void keys_to_tiles(std::int64_t first, std::int64_t last, const Factors* turns, const AppendArgs& how,
                     void* rows) const {
    for (std::int64_t token = first, end = first; token < last; token = end) {
      end = token + 1;
      if (args.slot_mapping[token] < 0) continue;
      while (end < last && continues_tile(args, end)) ++end;
      tile_columns(token, end, turns + (token - first), how, rows);
    }
  }

  /// Where tokens [first, last) are and where they go, and the factors of their rotations.
  void place(std::int64_t first, std::int64_t last, float* scratch, Place* places, Factors* turns) const {
    const std::int64_t seq = args.key.shape[2], page_size = args.key_cache.shape[2];
    Place place{first / seq, first % seq, 0, 0, false};
    for (std::int64_t token = first; token < last; ++token, ++place.row) {
      if (place.row == seq) place.row = 0, ++place.entry;
      const std::int64_t slot = args.slot_mapping[token];
      place.page = slot < 0 ? -1 : slot / page_size;
      place.page_row = slot - place.page * page_size;
      place.is_alone = (token == 0 || args.slot_mapping[token - 1] + 1 != slot) &&
                       (token + 1 == tokens || args.slot_mapping[token + 1] != slot + 1);
      places[token - first] = place;
      if (query || args.slot_mapping[token] >= 0)
        turns[token - first] = factors(token, scratch + (token - first) * 2 * args.rotary_dim);
    }
  }

  void block(std::int64_t first, std::int64_t last, float* scratch) const {
    Place places[kMostTaskTokens];
    Factors turns[kMostTaskTokens];
    place(first, last, scratch, places, turns);
    if (ahead == 0) return write(first, last, places, turns, scratch, nullptr);
    RowsAhead fetched;
    const auto add = [&](const TensorRows& rows) {
      for (std::int64_t i = 0; i < last - first && rows.heads() > 0; ++i)
        if (rows.has(places[i])) fetched.add(rows, places[i]);
    };
    add(values());
    if (!tiles) add(keys());
    if (query) add(queries());
    fetched.end();
    write(first, last, places, turns, scratch, &fetched);
  }

  void write(std::int64_t first, std::int64_t last, const Place* places, const Factors* turns, float* scratch,
             const RowsAhead* fetched) const {
    std::int64_t number = 0;
    const auto write_rows = [&](const TensorRows& rows, AppendArgs how) {
      how.in_stride = rows.from.stride[1], how.out_stride = rows.to.stride[1];
      how.rows = rows.heads(), how.dim = rows.from.shape[3];
      for (std::int64_t i = 0; i < last - first && how.rows > 0; ++i) {
        if (!rows.has(places[i])) continue;
        how.in = rows.in(places[i]), how.out = rows.out(places[i]);
        how.past_caches = past_caches && rows.in_pages && places[i].is_alone;
        how.cos = turns[i].cos, how.sin = turns[i].sin;
        if (fetched) {
          how.reads = {fetched->reads + number, fetched->reads + fetched->count};
          how.writes = {fetched->writes + number, fetched->writes + fetched->count};
        }
        ++number;
        rows.kernel.rows(how);
      }
    };
    AppendArgs how{};
    how.eps = args.norm_eps, how.ahead = ahead;
    write_rows(values(), how);
    how.pairs = pairs, how.rotary_dim = args.rotary_dim, how.weight = args.key_norm;
    if (tiles)
      keys_to_tiles(first, last, turns, how, scratch + factor_floats());
    else
      write_rows(keys(), how);
    how.weight = args.query_norm;
    if (query) write_rows(queries(), how);
  }
};

void append_rows_of_task(void* context, std::int32_t task, const scheduler::Slot& slot) noexcept {
  const Append& append = *static_cast<const Append*>(context);
  const kernels::FloatState float_state;  // subnormals are kept, so that every ISA gives the same bits
  const auto index = static_cast<std::size_t>(task);
  const std::int64_t first = append.work.begin[index], last = append.work.begin[index + 1];
  TracedTask traced{};
  traced.run = append.run, traced.task = task;
  traced.first_token = static_cast<std::int32_t>(first), traced.end_token = static_cast<std::int32_t>(last);
  traced.bytes = append.bytes_of_stored(first, last);
  traced.home = static_cast<std::int16_t>(append.work.tasks[index].home);
  const TaskTrace trace(append.tracer, slot.index, traced);
  for (std::int64_t from = first, to = from; from < last; from = to) {
    to = std::min(piece_end(append.args, from + kTaskTokens), last);
    append.block(from, to, reinterpret_cast<float*>(slot.scratch));
  }
  if (append.past_caches) kernels::finish_streams();
}

const AppendKernel& kernel_of(const Context::Impl& runtime, const ConstTensor& in, const Tensor& out) {
  return *kernels::find_append(runtime.isa, element_of(in.dtype), element_of(out.dtype));
}

RotaryPairs pairs_of(const KvAppendArgs& args) {
  if (args.rotary_dim == 0) return RotaryPairs::none;
  return args.rope_style == RopeStyle::neox ? RotaryPairs::halves : RotaryPairs::adjacent;
}

std::vector<double> frequencies_of(const KvAppendArgs& args) {
  std::vector<double> all(args.rope_cos ? 0 : static_cast<std::size_t>(args.rotary_dim / 2));
  for (std::size_t i = 0; i < all.size(); ++i)
    all[i] = std::pow(args.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(args.rotary_dim));
  return all;
}

}  // namespace

Status kv_append(const Context& context, const KvAppendArgs& args) {
  return guarded([&]() -> Status {
    if (Status s = check_context(context); !s.ok()) return s;
    const Context::Impl& runtime = *impl_of(context);
    if (Status s = validate_kv_append(args, context.num_domains()); !s.ok()) return s;
    const bool has_query = is_present(args.query);
    const std::int64_t tokens = args.key.shape[0] * args.key.shape[2];
    if (tokens == 0) return {};
    Append append{args,
                  kernel_of(runtime, args.key, args.key_cache),
                  kernel_of(runtime, args.value, args.value_cache),
                  has_query ? &kernel_of(runtime, args.query, args.query_out) : nullptr,
                  args.key_layout == KeyLayout::tiles_of_16
                      ? kernels::find_key_tiles(runtime.isa, element_of(args.key_cache.dtype))
                      : nullptr,
                  pairs_of(args),
                  frequencies_of(args),
                  tokens,
                  runtime.core.append_ahead};
    // In f64, because without pages the sizes may be any and their product could overflow.
    const auto count = static_cast<double>(tokens), least = static_cast<double>(runtime.core.append_streams);
    const bool is_small = count * static_cast<double>(append.all_bytes()) < kLeastSharedBytes;
    append.past_caches = least > 0 && count * static_cast<double>(append.cache_bytes()) >= least;
    const std::int64_t threads = runtime.executor->concurrency(),
                       fair = tokens / (threads == 1 ? 1 : kTasksPerThread * threads);
    // More tokens than tasks may be are cut without regard to domains, which might make a task of each.
    append.work = cut_tokens(args, is_small ? tokens : std::clamp<std::int64_t>(fair, 1, kTaskTokens),
                             args.page_domains && !is_small && tokens <= kMaxTasks);
    Tracer* const tracer = append.tracer = runtime.tracer.get();
    const std::int64_t begin = tracer ? tracer->now() : 0;
    if (tracer) append.run = tracer->next_run();
    Status done = run_tasks(runtime, append.work.tasks,
                            args.page_domains ? *runtime.config.policy : *scheduler::find_policy("flat"),
                            append_rows_of_task, &append, append.scratch_bytes());
    if (tracer) tracer->add_run(append.run, begin, tracer->now());
    return done;
  });
}

}  // namespace kumiko
