// SPDX-License-Identifier: Apache-2.0
// Stores the texts and vectors of the index on disk, so that they survive a restart.
//
// Two files, little-endian. FILE only grows: 80 bytes of header (magic, version, width, model), then the rows
// one after another: u32 length, the text's UTF-8, `width` floats. FILE.commit has 48 bytes and is replaced
// as a whole (temporary file beside it, fsync, rename, fsync of the folder): how many bytes and rows of FILE
// are valid, their CRC-32, and up to which byte an interrupted write may have left data behind them.
//
// An add first announces in FILE.commit how far it will write, then appends its rows, then commits them; each
// step is on the disk before the next begins, and the client gets its answer after the last. So:
//  - an add of 100 texts writes their 160 KiB; replacing one file as a whole would write all 150 MiB again;
//  - answered rows are never written again, whatever interrupts a later write;
//  - the rest of an interrupted write, which no client was told of, is told from damage: the rest was
//    announced and is removed at the next start; a file shorter or longer than announced, or with a wrong
//    checksum, is refused. A log of records with a checksum each cannot tell a torn last record from one that
//    was answered and then damaged, so it would have to drop both or refuse both.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "file_io.h"

namespace inference {

/// The index cannot be read from its file, or a change cannot be written to it. Then nothing was changed.
struct IndexFileError : FileError {
  using FileError::FileError;
  explicit IndexFileError(const FileError& cause) : FileError(cause) {}
  /// The disk, a quota or a limit of the process is full: the same request may succeed later.
  bool out_of_space() const;
};

/// For one process at a time, and one thread at a time.
class IndexFile {
 public:
  struct Row {
    std::string_view text;
    std::span<const float> vector;
  };
  using Visitor = std::function<void(std::string text, std::span<const float> vector)>;

  /// Opens or creates `path`, and locks it. `model` names the model in at most 64 bytes; its vectors have
  /// `width` floats. Throws IndexFileError: in use by another process; of another model, width or version;
  /// shorter or longer than committed; FILE.commit missing or damaged.
  IndexFile(const std::filesystem::path& path, std::string_view model, std::int64_t width);

  /// Never more than the file's bytes can hold.
  std::int64_t rows() const { return static_cast<std::int64_t>(committed_.rows); }
  const std::filesystem::path& path() const { return path_; }

  /// Calls `visit` for every row, oldest first. Throws IndexFileError if the rows are not those committed,
  /// and any exception of `visit`.
  void read(const Visitor& visit) const;

  /// When it returns, the rows are on the disk; if it throws IndexFileError, they are not in the file.
  void append(std::span<const Row> rows);
  /// When it returns, a restart finds no rows.
  void clear();

 private:
  struct Commit {
    std::uint64_t length = 0;  ///< valid bytes of FILE
    std::uint64_t limit = 0;   ///< bytes up to which an interrupted write may have gone
    std::uint64_t rows = 0;
    std::uint32_t checksum = 0;  ///< CRC-32 of the first `length` bytes
  };
  void lock();
  void load_commit();
  void check_header() const;
  void repair();
  void require_usable() const;
  void append_bytes(std::string_view bytes, std::uint64_t rows);
  void write_commit(const Commit& commit);

  std::filesystem::path path_;
  std::filesystem::path commit_path_;
  std::string header_;
  std::int64_t width_;
  File file_;
  Commit committed_;
  bool unknown_state_ = false;  // the folder could not be synced: a restart may find either FILE.commit
};

}  // namespace inference
