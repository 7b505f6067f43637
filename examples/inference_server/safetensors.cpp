#include "safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string_view>
#include <utility>

namespace inference {
namespace {

using Json = nlohmann::json;

// A header of 100 MB would describe about a million tensors; more is a damaged length field.
constexpr std::uint64_t kMaxHeader = 100'000'000;

constexpr std::array<std::pair<std::string_view, std::uint64_t>, 13> kElementSize{{{"BOOL", 1},
                                                                                   {"U8", 1},
                                                                                   {"I8", 1},
                                                                                   {"F8_E4M3", 1},
                                                                                   {"F8_E5M2", 1},
                                                                                   {"I16", 2},
                                                                                   {"U16", 2},
                                                                                   {"F16", 2},
                                                                                   {"BF16", 2},
                                                                                   {"I32", 4},
                                                                                   {"F32", 4},
                                                                                   {"I64", 8},
                                                                                   {"F64", 8}}};

std::string show(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

std::uint64_t element_size(const std::string& where, const std::string& dtype) {
  for (const auto& [name, size] : kElementSize) {
    if (name == dtype) return size;
  }
  throw std::runtime_error(where + ": dtype '" + dtype + "' is not known");
}

std::uint64_t byte_count(const std::string& where, const std::string& dtype,
                         const std::vector<std::int64_t>& shape) {
  std::uint64_t bytes = element_size(where, dtype);
  for (std::int64_t extent : shape) {
    if (__builtin_mul_overflow(bytes, static_cast<std::uint64_t>(extent), &bytes)) {
      throw std::runtime_error(where + ": shape " + show(shape) + " overflows 64 bits");
    }
  }
  return bytes;
}

std::uint64_t unsigned_member(const std::string& where, const Json& value, const char* what) {
  if (!value.is_number_unsigned()) {
    throw std::runtime_error(where + ": " + what + " must be a non-negative integer, is " + value.dump());
  }
  return value.get<std::uint64_t>();
}

}  // namespace

SafeTensors::SafeTensors(const std::filesystem::path& path) : path_(path) {
  static_assert(std::endian::native == std::endian::little, "the tensors are used in place");
  map_file();
  try {
    parse_header();
  } catch (...) {
    ::munmap(const_cast<std::byte*>(bytes_), size_);
    throw;
  }
}

SafeTensors::~SafeTensors() {
  ::munmap(const_cast<std::byte*>(bytes_), size_);
}

void SafeTensors::map_file() {
  const std::string name = path_.string();
  const int file = ::open(name.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) throw std::runtime_error(name + ": cannot be opened: " + std::strerror(errno));
  struct stat info {};
  if (::fstat(file, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(file);
    throw std::runtime_error(name + ": is not a regular file");
  }
  size_ = static_cast<std::uint64_t>(info.st_size);
  if (size_ < 8) {
    ::close(file);
    throw std::runtime_error(name + ": has " + std::to_string(size_) + " bytes, a header needs 8");
  }
  void* memory = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
  const int error = errno;
  ::close(file);
  if (memory == MAP_FAILED) throw std::runtime_error(name + ": cannot be mapped: " + std::strerror(error));
  bytes_ = static_cast<const std::byte*>(memory);
}

SafeTensors::Entry SafeTensors::parse_entry(const std::string& where, const void* json) {
  const Json& value = *static_cast<const Json*>(json);
  if (!value.is_object()) throw std::runtime_error(where + ": must be an object, is " + value.dump());
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    if (!value.contains(key)) throw std::runtime_error(where + ": has no '" + key + "'");
  }
  Entry entry;
  if (!value["dtype"].is_string()) {
    throw std::runtime_error(where + ": dtype must be a string, is " + value["dtype"].dump());
  }
  entry.dtype = value["dtype"].get<std::string>();
  if (!value["shape"].is_array()) {
    throw std::runtime_error(where + ": shape must be an array, is " + value["shape"].dump());
  }
  for (const Json& extent : value["shape"]) {
    const std::uint64_t n = unsigned_member(where, extent, "every extent of shape");
    if (n > static_cast<std::uint64_t>(INT64_MAX))
      throw std::runtime_error(where + ": shape overflows 64 bits");
    entry.shape.push_back(static_cast<std::int64_t>(n));
  }
  const Json& offsets = value["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2) {
    throw std::runtime_error(where + ": data_offsets must be [begin, end], is " + offsets.dump());
  }
  entry.begin = unsigned_member(where, offsets[0], "data_offsets[0]");
  entry.end = unsigned_member(where, offsets[1], "data_offsets[1]");
  const std::uint64_t bytes = byte_count(where, entry.dtype, entry.shape);
  if (entry.end < entry.begin || entry.end - entry.begin != bytes) {
    throw std::runtime_error(where + ": data_offsets " + offsets.dump() + " do not hold " + entry.dtype +
                             " " + show(entry.shape) + " (" + std::to_string(bytes) + " bytes)");
  }
  return entry;
}

void SafeTensors::parse_header() {
  const std::string name = path_.string();
  std::uint64_t length = 0;
  std::memcpy(&length, bytes_, sizeof length);
  if (length > kMaxHeader || length > size_ - 8) {
    throw std::runtime_error(name + ": header length " + std::to_string(length) + " does not fit a file of " +
                             std::to_string(size_) + " bytes");
  }
  const char* text = reinterpret_cast<const char*>(bytes_ + 8);
  Json header;
  try {
    header = Json::parse(text, text + length);
  } catch (const Json::exception& error) {
    throw std::runtime_error(name + ": header is not JSON: " + error.what());
  }
  if (!header.is_object()) throw std::runtime_error(name + ": header must be a JSON object");
  data_ = bytes_ + 8 + length;
  for (const auto& [key, value] : header.items()) {
    if (key == "__metadata__") continue;
    tensors_.emplace(key, parse_entry(name + ": tensor '" + key + "'", &value));
  }
  check_tiling(size_ - 8 - length);
}

void SafeTensors::check_tiling(std::uint64_t data_size) const {
  const std::string name = path_.string();
  std::vector<std::pair<const std::string*, const Entry*>> order;
  for (const auto& [key, entry] : tensors_) order.emplace_back(&key, &entry);
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
}

std::span<const float> SafeTensors::f32(const std::string& name,
                                        const std::vector<std::int64_t>& shape) const {
  const std::string where = path_.string() + ": tensor '" + name + "'";
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) throw std::runtime_error(where + " is missing");
  const Entry& entry = found->second;
  if (entry.dtype != "F32") throw std::runtime_error(where + ": dtype is " + entry.dtype + ", expected F32");
  if (entry.shape != shape) {
    throw std::runtime_error(where + ": shape is " + show(entry.shape) + ", expected " + show(shape));
  }
  const std::byte* first = data_ + entry.begin;
  if (reinterpret_cast<std::uintptr_t>(first) % alignof(float) != 0) {
    throw std::runtime_error(where + ": data begins at an odd byte, F32 needs a multiple of 4");
  }
  return {reinterpret_cast<const float*>(first), (entry.end - entry.begin) / sizeof(float)};
}

}  // namespace inference
