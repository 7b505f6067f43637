// SPDX-License-Identifier: Apache-2.0
// Files of results: whether one can be written is known before the work, and it is written as a whole or not
// at all.
#pragma once

#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

namespace examples {

/// What a path with symbolic links leads to, whether that exists or not.
inline std::filesystem::path without_links(std::filesystem::path path) {
  std::error_code error;
  for (int i = 0; i < 40 && std::filesystem::is_symlink(path, error); ++i)
    path = path.parent_path() / std::filesystem::read_symlink(path, error);
  return path;
}

/// A device or a pipe, which is written where it is.
inline bool is_special(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::exists(path, error) && !std::filesystem::is_regular_file(path, error);
}

/// Whether a file can be written there. Changes no file and leaves none behind.
inline bool can_be_written(const std::string& path) {
  std::error_code error;
  const std::filesystem::path file = without_links(path);
  // Not opened: the reader of a pipe would take the first close for its end.
  if (is_special(file)) return !std::filesystem::is_directory(file, error) && access(file.c_str(), W_OK) == 0;
  const bool is_new = !std::filesystem::exists(file, error);
  if (!std::ofstream(file, std::ios::app)) return false;
  if (is_new) std::filesystem::remove(file, error);
  return true;
}

inline bool write_in_place(const std::filesystem::path& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary);
  out << text;
  out.close();
  return !out.fail();
}

/// Writes `text` beside the file and renames it: an older file stays until the new one is whole. A file in a
/// folder that takes no new ones is written where it is. False if that fails.
[[nodiscard]] inline bool write_whole(const std::string& path, const std::string& text) {
  std::error_code error;
  const std::filesystem::path file = without_links(path);
  if (is_special(file)) return write_in_place(file, text);
  const bool is_new = !std::filesystem::exists(file, error);
  const std::filesystem::path part = file.string() + ".part" + std::to_string(getpid());
  std::FILE* const out = std::fopen(part.c_str(), "wxe");  // "x": never an older file
  if (out == nullptr) return !is_new && write_in_place(file, text);
  bool is_written = std::fwrite(text.data(), 1, text.size(), out) == text.size();
  is_written = std::fclose(out) == 0 && is_written;
  error.clear();
  if (is_written && !is_new)
    std::filesystem::permissions(part, std::filesystem::status(file, error).permissions(), error);
  if (is_written) std::filesystem::rename(part, file, error);
  if (is_written && !error) return true;
  std::filesystem::remove(part, error);
  return false;
}

}  // namespace examples
