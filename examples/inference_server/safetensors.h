// SPDX-License-Identifier: Apache-2.0
// Tensors of a .safetensors file, copied into memory: later changes of the file have no effect.
//
// Layout: u64 little-endian header length N, N bytes of JSON {name: {dtype, shape, data_offsets: [begin,
// end]}}, then the data; offsets count from the end of the header.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "file_io.h"

namespace inference {

/// One tensor's header entry, and its place in memory.
struct TensorEntry {
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::uint64_t place = 0;
};

class SafeTensors {
 public:
  /// Reads the file and validates the whole header: at most 16 MiB, JSON of at most 4 nested levels, every
  /// name once, dtypes, shapes, and that the tensors tile the data without gap or overlap. A tensor may begin
  /// at any byte of the file; in memory each begins at a multiple of 64. Throws std::runtime_error naming the
  /// file and the tensor.
  explicit SafeTensors(const std::filesystem::path& path);

  /// The values of tensor `name`, row-major, valid as long as this object lives. Throws std::runtime_error if
  /// the tensor is missing, not F32, not of `shape`, or has a value that is not finite.
  std::span<const float> f32(const std::string& name, const std::vector<std::int64_t>& shape) const;

  std::size_t size() const { return tensors_.size(); }

 private:
  struct Free {
    void operator()(std::byte* memory) const;
  };
  using Order = std::vector<std::pair<const std::string*, TensorEntry*>>;
  std::string read_header(const File& file, std::uint64_t size) const;
  /// Every tensor in the order of the file.
  Order check_tiling(std::uint64_t data_size);
  void read_data(const File& file, std::uint64_t data_begin, const Order& order);

  std::filesystem::path path_;
  std::map<std::string, TensorEntry> tensors_;
  std::unique_ptr<std::byte[], Free> memory_;
};

}  // namespace inference
