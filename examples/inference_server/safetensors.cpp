// SPDX-License-Identifier: Apache-2.0
#include "safetensors.h"

#include <fcntl.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <new>
#include <stdexcept>
#include <utility>

#include "safetensors_header.h"

namespace inference {
namespace {

// Enough for about 150,000 tensors; all-MiniLM-L6-v2 has 103 in 10 KiB.
constexpr std::uint64_t kMaxHeader = std::uint64_t{16} << 20;

// A cache line, and the widest vector of AVX-512.
constexpr std::uint64_t kAlignment = 64;

/// The index of the row-major element `flat`: "[1, 0]".
std::string show_place(std::uint64_t flat, const std::vector<std::int64_t>& shape) {
  std::vector<std::int64_t> place(shape.size());
  for (std::size_t d = shape.size(); d-- > 0;) {
    place[d] = static_cast<std::int64_t>(flat % static_cast<std::uint64_t>(shape[d]));
    flat /= static_cast<std::uint64_t>(shape[d]);
  }
  return show_shape(place);
}

}  // namespace

void SafeTensors::Free::operator()(std::byte* memory) const {
  ::operator delete[](memory, std::align_val_t(kAlignment));
}

SafeTensors::SafeTensors(const std::filesystem::path& path) : path_(path) {
  static_assert(std::endian::native == std::endian::little, "the tensors are used as the file has them");
  const File file(path, O_RDONLY);
  const std::uint64_t size = file.size();
  const std::string header = read_header(file, size);
  tensors_ = parse_safetensors_header(header, path_.string());
  const std::uint64_t data_begin = sizeof(std::uint64_t) + header.size();
  read_data(file, data_begin, check_tiling(size - data_begin));
  if (file.size() != size) throw FileError(path, "changed its size while it was read");
}

std::string SafeTensors::read_header(const File& file, std::uint64_t size) const {
  std::uint64_t length = 0;
  if (size < sizeof length)
    throw FileError(path_, "has " + std::to_string(size) + " bytes, a header needs 8");
  file.read(&length, sizeof length, 0);
  if (length > size - sizeof length) {
    throw FileError(path_, "header length " + std::to_string(length) + " does not fit a file of " +
                               std::to_string(size) + " bytes");
  }
  if (length > kMaxHeader) {
    throw FileError(path_,
                    "header length " + std::to_string(length) + " is above " + std::to_string(kMaxHeader));
  }
  std::string header(length, '\0');
  file.read(header.data(), length, sizeof length);
  return header;
}

SafeTensors::Order SafeTensors::check_tiling(std::uint64_t data_size) {
  const std::string name = path_.string();
  Order order;
  for (auto& [key, entry] : tensors_) order.emplace_back(&key, &entry);
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second->begin, a.second->end) < std::pair(b.second->begin, b.second->end);
  });
  std::uint64_t at = 0;
  for (const auto& [key, entry] : order) {
    const std::string where = name + ": tensor '" + *key + "'";
    if (entry->end > data_size) {
      throw std::runtime_error(where + ": ends at byte " + std::to_string(entry->end) + " of " +
                               std::to_string(data_size) + " (the file is cut short)");
    }
    if (entry->begin != at) {
      throw std::runtime_error(where + ": begins at byte " + std::to_string(entry->begin) +
                               (entry->begin < at ? " and overlaps the one before, which ends at "
                                                  : " and leaves a gap after byte ") +
                               std::to_string(at));
    }
    at = entry->end;
  }
  if (at != data_size) {
    throw std::runtime_error(name + ": " + std::to_string(data_size - at) +
                             " bytes at the end belong to no tensor");
  }
  return order;
}

void SafeTensors::read_data(const File& file, std::uint64_t data_begin, const Order& order) {
  std::uint64_t bytes = 0;
  for (const auto& [key, entry] : order) {
    entry->place = bytes;
    bytes += (entry->end - entry->begin + kAlignment - 1) / kAlignment * kAlignment;
  }
  try {
    memory_.reset(static_cast<std::byte*>(::operator new[](bytes, std::align_val_t(kAlignment))));
  } catch (const std::bad_alloc&) {
    throw FileError(path_, "needs " + std::to_string(bytes) + " bytes of memory, more than can be allocated");
  }
  for (const auto& [key, entry] : order) {
    file.read(memory_.get() + entry->place, entry->end - entry->begin, data_begin + entry->begin);
  }
}

std::span<const float> SafeTensors::f32(const std::string& name,
                                        const std::vector<std::int64_t>& shape) const {
  const std::string where = path_.string() + ": tensor '" + name + "'";
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) throw std::runtime_error(where + " is missing");
  const TensorEntry& entry = found->second;
  if (entry.dtype != "F32") throw std::runtime_error(where + ": dtype is " + entry.dtype + ", expected F32");
  if (entry.shape != shape) {
    throw std::runtime_error(where + ": shape is " + show_shape(entry.shape) + ", expected " +
                             show_shape(shape));
  }
  const std::span<const float> values(reinterpret_cast<const float*>(memory_.get() + entry.place),
                                      (entry.end - entry.begin) / sizeof(float));
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) {
      throw std::runtime_error(where + ": the value at " + show_place(i, shape) + " is " +
                               std::to_string(values[i]) + ", expected a finite number");
    }
  }
  return values;
}

}  // namespace inference
