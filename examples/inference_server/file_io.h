// SPDX-License-Identifier: Apache-2.0
// Files read and written whole or not at all: short reads and writes, signals and a full disk become errors.
#pragma once

#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <string>

namespace inference {

/// A file that cannot be read or written. The text begins with the file's path.
struct FileError : std::runtime_error {
  FileError(const std::filesystem::path& path, const std::string& what, int error = 0);
  int error;  ///< errno, 0 when the system reported none
};

/// Owns a file descriptor.
class File {
 public:
  /// open(2) with O_CLOEXEC. A new file can be read and written by its owner alone. Throws FileError; also
  /// when `path` is no regular file, unless `any_kind`.
  File(const std::filesystem::path& path, int flags, bool any_kind = false);
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  int descriptor() const { return descriptor_; }
  const std::filesystem::path& path() const { return path_; }

  std::uint64_t size() const;
  /// Throws FileError when the file ends before `offset + bytes`.
  void read(void* to, std::uint64_t bytes, std::uint64_t offset) const;
  void write(const void* from, std::uint64_t bytes, std::uint64_t offset) const;
  void truncate(std::uint64_t bytes) const;
  /// Returns once everything written is on the disk.
  void sync() const;

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

/// Returns once the names made or changed in `folder` are on the disk. Throws FileError.
void sync_folder(const std::filesystem::path& folder);

/// The bytes of a regular file. Throws FileError if it has more than `max_bytes` or changes while it is read.
std::string read_file(const std::filesystem::path& path, std::uint64_t max_bytes);

}  // namespace inference
