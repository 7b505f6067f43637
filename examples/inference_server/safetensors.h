// Reads tensors from a .safetensors file by mapping it into memory.
//
// Layout: u64 little-endian header length N, N bytes of JSON {name: {dtype, shape, data_offsets: [begin,
// end]}}, then the data; offsets count from the end of the header.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace inference {

class SafeTensors {
 public:
  /// Maps and validates the whole header: JSON, dtypes, shapes, and that the tensors tile the data without
  /// gap or overlap. Throws std::runtime_error naming the file and the tensor.
  explicit SafeTensors(const std::filesystem::path& path);
  ~SafeTensors();
  SafeTensors(const SafeTensors&) = delete;
  SafeTensors& operator=(const SafeTensors&) = delete;

  /// The values of tensor `name`, row-major, valid as long as this object lives. Throws std::runtime_error
  /// when it is missing, not F32, or not of `shape`.
  std::span<const float> f32(const std::string& name, const std::vector<std::int64_t>& shape) const;

  std::size_t size() const { return tensors_.size(); }

 private:
  struct Entry {
    std::string dtype;
    std::vector<std::int64_t> shape;
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
  };
  void map_file();
  void parse_header();
  void check_tiling(std::uint64_t data_size) const;
  static Entry parse_entry(const std::string& where, const void* json);

  std::filesystem::path path_;
  const std::byte* bytes_ = nullptr;
  std::uint64_t size_ = 0;
  const std::byte* data_ = nullptr;
  std::map<std::string, Entry> tensors_;
};

}  // namespace inference
