// SPDX-License-Identifier: Apache-2.0
// Files that programs write, completely or not at all.
#pragma once

#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

namespace kumiko::tools {

/// What a path with symbolic links leads to, whether it exists or not.
inline std::filesystem::path behind_links(std::filesystem::path path) {
  constexpr int kMostLinks = 40;
  std::error_code error;
  for (int i = 0; i < kMostLinks && std::filesystem::is_symlink(path, error); ++i)
    path = path.parent_path() / std::filesystem::read_symlink(path, error);
  return path;
}

inline bool write_in_place(const std::filesystem::path& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary);
  out << text;
  out.close();
  return !out.fail();
}

/// Whether a file can be opened for writing. Leaves no new file behind.
inline bool is_writable(const std::string& path) {
  std::error_code error;
  const std::filesystem::path target = behind_links(path);
  const bool existed = std::filesystem::exists(target, error);
  // A pipe is not opened: that waits for a reader, who would take the close for the end of the text.
  if (std::filesystem::is_fifo(target, error)) return access(target.c_str(), W_OK) == 0;
  const bool opens = std::ofstream(target, std::ios::app).is_open();
  if (opens && !existed) std::filesystem::remove(target, error);
  return opens;
}

/// Writes a file beside `path` and renames it, so that an older file stays if the new one cannot be written.
/// A symbolic link stays a link. Devices and pipes are written to directly, and so is a file in a folder in
/// which no new one can be made.
[[nodiscard]] inline bool write_file(const std::string& path, const std::string& text) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::path target = behind_links(path);
  const fs::file_status there = fs::status(target, error);
  if (fs::exists(there) && (!fs::is_regular_file(there) || access(target.c_str(), W_OK) != 0))
    return write_in_place(target, text);
  fs::path part;
  std::FILE* file = nullptr;
  for (int n = 0; n < 100 && !file; ++n) {
    part = target.string() + ".part" + std::to_string(n);
    file = std::fopen(part.c_str(), "wxe");  // which never opens a file that exists
  }
  if (!file) return fs::exists(there) && write_in_place(target, text);
  bool is_written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  is_written = std::fclose(file) == 0 && is_written;
  if (is_written && fs::exists(there)) fs::permissions(part, there.permissions(), error);
  if (is_written) fs::rename(part, target, error);
  if (is_written && !error) return true;
  fs::remove(part, error);
  return false;
}

}  // namespace kumiko::tools
