// SPDX-License-Identifier: Apache-2.0
#include "file_io.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace inference {
namespace {

// Linux transfers at most 2 GiB less a page per call.
constexpr std::uint64_t kPiece = std::uint64_t{1} << 30;

std::string describe(const std::filesystem::path& path, const std::string& what, int error) {
  return path.string() + ": " + what + (error != 0 ? std::string(": ") + std::strerror(error) : "");
}

}  // namespace

FileError::FileError(const std::filesystem::path& path, const std::string& what, int number)
    : std::runtime_error(describe(path, what, number)), error(number) {}

File::File(const std::filesystem::path& path, int flags, bool any_kind) : path_(path) {
  do {
    // O_NONBLOCK has no effect on regular files; without it, opening a pipe that has no writer would block
    // for ever.
    descriptor_ = ::open(path.c_str(), flags | O_CLOEXEC | (any_kind ? 0 : O_NONBLOCK), 0600);
  } while (descriptor_ < 0 && errno == EINTR);
  if (descriptor_ < 0) throw FileError(path_, "cannot be opened", errno);
  struct stat info {};
  if (!any_kind && (::fstat(descriptor_, &info) != 0 || !S_ISREG(info.st_mode))) {
    ::close(descriptor_);
    throw FileError(path_, "is not a regular file");
  }
}

File::~File() {
  ::close(descriptor_);
}

std::uint64_t File::size() const {
  struct stat info {};
  if (::fstat(descriptor_, &info) != 0) throw FileError(path_, "has no size", errno);
  return static_cast<std::uint64_t>(info.st_size);
}

void File::read(void* to, std::uint64_t bytes, std::uint64_t offset) const {
  for (std::uint64_t done = 0; done < bytes;) {
    const ssize_t got = ::pread(descriptor_, static_cast<char*>(to) + done, std::min(bytes - done, kPiece),
                                static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw FileError(path_, "cannot be read at byte " + std::to_string(offset + done), errno);
    if (got == 0) {
      throw FileError(path_, "ends at byte " + std::to_string(offset + done) + ", expected " +
                                 std::to_string(offset + bytes) + " (it was cut short while it was read)");
    }
    done += static_cast<std::uint64_t>(got);
  }
}

void File::write(const void* from, std::uint64_t bytes, std::uint64_t offset) const {
  for (std::uint64_t done = 0; done < bytes;) {
    const ssize_t put = ::pwrite(descriptor_, static_cast<const char*>(from) + done,
                                 std::min(bytes - done, kPiece), static_cast<off_t>(offset + done));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) throw FileError(path_, "cannot be written at byte " + std::to_string(offset + done), errno);
    done += static_cast<std::uint64_t>(put);
  }
}

void File::truncate(std::uint64_t bytes) const {
  while (::ftruncate(descriptor_, static_cast<off_t>(bytes)) != 0) {
    if (errno != EINTR) throw FileError(path_, "cannot be cut to " + std::to_string(bytes) + " bytes", errno);
  }
}

void File::sync() const {
  // Not retried: after an error the kernel may have dropped the data that it could not write.
  if (::fsync(descriptor_) != 0) throw FileError(path_, "cannot be brought to the disk", errno);
}

void sync_folder(const std::filesystem::path& folder) {
  File(folder.empty() ? "." : folder, O_RDONLY | O_DIRECTORY, true).sync();
}

std::string read_file(const std::filesystem::path& path, std::uint64_t max_bytes) {
  const File file(path, O_RDONLY);
  const std::uint64_t size = file.size();
  if (size > max_bytes) {
    throw FileError(
        path, "has " + std::to_string(size) + " bytes, at most " + std::to_string(max_bytes) + " are read");
  }
  std::string bytes(size, '\0');
  file.read(bytes.data(), size, 0);
  if (file.size() != size) throw FileError(path, "changed while it was read");
  return bytes;
}

}  // namespace inference
