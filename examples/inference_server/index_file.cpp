// SPDX-License-Identifier: Apache-2.0
#include "index_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <zlib.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace inference {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers go to the file as memory has them");

constexpr std::string_view kMagic = "KUMIKOIX";
constexpr std::string_view kCommitMagic = "KUMIKOIC";
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kModelBytes = 64;
constexpr std::size_t kHeaderBytes = 80;
constexpr std::size_t kCommitBytes = 48;

template <class Number>
void put(std::string& out, Number number) {
  out.append(reinterpret_cast<const char*>(&number), sizeof number);
}

template <class Number>
Number get(const char* bytes) {
  Number number;
  std::memcpy(&number, bytes, sizeof number);
  return number;
}

std::uint32_t checksum(std::uint32_t before, std::string_view bytes) {
  return static_cast<std::uint32_t>(
      crc32_z(before, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()));
}

std::string make_header(std::string_view model, std::int64_t width) {
  std::string header(kMagic);
  put(header, kVersion);
  put(header, static_cast<std::uint32_t>(width));
  header += model;
  header.resize(kHeaderBytes, '\0');
  return header;
}

std::filesystem::path with_suffix(std::filesystem::path path, const char* suffix) {
  path += suffix;
  return path;
}

/// Reads the rows in pieces and keeps the checksum of everything read.
class Rows {
 public:
  Rows(const File& file, std::uint64_t end) : file_(file), end_(end) {}

  std::uint64_t at() const { return at_; }
  std::uint64_t left() const { return end_ - at_; }
  std::uint32_t sum() const { return sum_; }

  void read(void* to, std::uint64_t bytes) {
    for (char* out = static_cast<char*>(to); bytes > 0;) {
      if (used_ == piece_.size()) {
        piece_.resize(std::min<std::uint64_t>(left(), std::uint64_t{1} << 20));
        file_.read(piece_.data(), piece_.size(), at_);
        sum_ = checksum(sum_, piece_);
        used_ = 0;
      }
      const std::uint64_t some = std::min<std::uint64_t>(bytes, piece_.size() - used_);
      std::memcpy(out, piece_.data() + used_, some);
      out += some;
      used_ += some;
      at_ += some;
      bytes -= some;
    }
  }

 private:
  const File& file_;
  const std::uint64_t end_;
  std::uint64_t at_ = 0;
  std::uint32_t sum_ = 0;
  std::string piece_;
  std::size_t used_ = 0;
};

/// Turns every failure in `call` into one of the index file.
template <class Call>
auto as_index_error(const Call& call) {
  try {
    return call();
  } catch (const IndexFileError&) {
    throw;
  } catch (const FileError& error) {
    throw IndexFileError(error);
  }
}

const std::filesystem::path& checked(const std::filesystem::path& path, std::string_view model,
                                     std::int64_t width) {
  if (model.empty() || model.size() > kModelBytes)
    throw std::invalid_argument("model has " + std::to_string(model.size()) + " bytes, expected 1..64");
  if (width < 1 || width > UINT32_MAX)
    throw std::invalid_argument("width is " + std::to_string(width) + ", expected 1..2^32-1");
  return path;
}

}  // namespace

bool IndexFileError::out_of_space() const {
  return error == ENOSPC || error == EDQUOT || error == EFBIG;
}

IndexFile::IndexFile(const std::filesystem::path& path, std::string_view model, std::int64_t width)
    : path_(checked(path, model, width)),
      commit_path_(with_suffix(path, ".commit")),
      header_(make_header(model, width)),
      width_(width),
      file_(as_index_error([&] { return File(path, O_RDWR | O_CREAT); })) {
  as_index_error([&] {
    lock();
    load_commit();
    if (committed_.length == 0) {
      append_bytes(header_, 0);
    } else {
      check_header();
      repair();
    }
  });
}

void IndexFile::lock() {
  if (::flock(file_.descriptor(), LOCK_EX | LOCK_NB) == 0) return;
  if (errno == EWOULDBLOCK) throw IndexFileError(path_, "is in use by another process");
  throw IndexFileError(path_, "cannot be locked", errno);
}

void IndexFile::load_commit() {
  const std::uint64_t size = file_.size();
  if (!std::filesystem::exists(std::filesystem::symlink_status(commit_path_))) {
    if (size == 0) return;  // new
    throw IndexFileError(path_, "has " + std::to_string(size) + " bytes, but " + commit_path_.string() +
                                    " is missing, which says how many of them count");
  }
  const std::string bytes = read_file(commit_path_, 4096);
  if (bytes.size() != kCommitBytes) {
    throw IndexFileError(commit_path_, "has " + std::to_string(bytes.size()) + " bytes, expected " +
                                           std::to_string(kCommitBytes));
  }
  if (!bytes.starts_with(kCommitMagic)) throw IndexFileError(commit_path_, "is not of an index");
  if (checksum(0, std::string_view(bytes).substr(0, 44)) != get<std::uint32_t>(&bytes[44]))
    throw IndexFileError(commit_path_, "is damaged: its checksum is another");
  if (const auto version = get<std::uint32_t>(&bytes[8]); version != kVersion) {
    throw IndexFileError(commit_path_, "is of version " + std::to_string(version) + ", this server reads " +
                                           std::to_string(kVersion));
  }
  committed_.length = get<std::uint64_t>(&bytes[16]);
  committed_.limit = get<std::uint64_t>(&bytes[24]);
  committed_.rows = get<std::uint64_t>(&bytes[32]);
  committed_.checksum = get<std::uint32_t>(&bytes[40]);
  if (size < committed_.length) {
    throw IndexFileError(path_, "has " + std::to_string(size) + " bytes, " +
                                    std::to_string(committed_.length) + " were committed: it was cut short");
  }
  if (size > committed_.limit) {
    throw IndexFileError(path_, "has " + std::to_string(size) + " bytes, only " +
                                    std::to_string(committed_.limit) +
                                    " were written: something was added at its end");
  }
}

void IndexFile::repair() {
  if (committed_.length == committed_.limit) return;
  file_.truncate(committed_.length);
  file_.sync();
  Commit clean = committed_;
  clean.limit = clean.length;
  write_commit(clean);
}

void IndexFile::check_header() const {
  if (committed_.length < kHeaderBytes) throw IndexFileError(path_, "has no header");
  std::string header(kHeaderBytes, '\0');
  file_.read(header.data(), header.size(), 0);
  if (header == header_) {
    const std::uint64_t row_bytes =
        sizeof(std::uint32_t) + static_cast<std::uint64_t>(width_) * sizeof(float);
    if (committed_.rows <= (committed_.length - kHeaderBytes) / row_bytes) return;
    throw IndexFileError(path_, "has " + std::to_string(committed_.length) + " bytes, too few for " +
                                    std::to_string(committed_.rows) + " texts");
  }
  if (!header.starts_with(kMagic)) throw IndexFileError(path_, "is not an index");
  if (const auto version = get<std::uint32_t>(&header[8]); version != kVersion) {
    throw IndexFileError(path_, "is of version " + std::to_string(version) + ", this server reads " +
                                    std::to_string(kVersion));
  }
  const auto model = [](const std::string& of) { return of.substr(16, of.find('\0', 16) - 16); };
  if (model(header) != model(header_)) {
    throw IndexFileError(path_,
                         "is of the model '" + model(header) + "', this one is '" + model(header_) + "'");
  }
  if (get<std::uint32_t>(&header[12]) == get<std::uint32_t>(&header_[12]))
    throw IndexFileError(path_, "is damaged: its header has other bytes than were written");
  throw IndexFileError(path_, "has vectors of " + std::to_string(get<std::uint32_t>(&header[12])) +
                                  " floats, the model's have " + std::to_string(width_));
}

void IndexFile::read(const Visitor& visit) const {
  as_index_error([&] {
    Rows rows(file_, committed_.length);
    const auto damaged = [&](std::uint64_t row, const std::string& what) {
      return IndexFileError(path_, "is damaged: row " + std::to_string(row) + " of " +
                                       std::to_string(committed_.rows) + ", which ends before byte " +
                                       std::to_string(rows.at()) + ", " + what);
    };
    std::string header(kHeaderBytes, '\0');
    rows.read(header.data(), header.size());
    const std::uint64_t vector_bytes = static_cast<std::uint64_t>(width_) * sizeof(float);
    std::vector<float> vector(committed_.rows > 0 ? static_cast<std::size_t>(width_) : 0);
    for (std::uint64_t row = 0; row < committed_.rows; ++row) {
      std::uint32_t text_bytes = 0;
      if (rows.left() < sizeof text_bytes + vector_bytes) throw damaged(row, "is cut short");
      rows.read(&text_bytes, sizeof text_bytes);
      if (text_bytes > rows.left() - vector_bytes) {
        throw damaged(row, "has a text of " + std::to_string(text_bytes) + " bytes, at most " +
                               std::to_string(rows.left() - vector_bytes) + " are left");
      }
      std::string text(text_bytes, '\0');
      rows.read(text.data(), text_bytes);
      rows.read(vector.data(), vector_bytes);
      visit(std::move(text), vector);
    }
    if (rows.left() != 0)
      throw damaged(committed_.rows, "is followed by " + std::to_string(rows.left()) + " bytes");
    if (rows.sum() != committed_.checksum)
      throw IndexFileError(path_, "is damaged: its checksum is another than the committed one");
  });
}

void IndexFile::append(std::span<const Row> rows) {
  std::string bytes;
  for (const Row& row : rows) {
    if (row.text.size() > UINT32_MAX || std::ssize(row.vector) != width_)
      throw std::invalid_argument("a row has " + std::to_string(row.text.size()) + " bytes of text and " +
                                  std::to_string(row.vector.size()) + " floats");
    put(bytes, static_cast<std::uint32_t>(row.text.size()));
    bytes += row.text;
    bytes.append(reinterpret_cast<const char*>(row.vector.data()), row.vector.size_bytes());
  }
  as_index_error([&] { append_bytes(bytes, rows.size()); });
}

void IndexFile::append_bytes(std::string_view bytes, std::uint64_t rows) {
  require_usable();
  Commit next;
  next.length = next.limit = committed_.length + bytes.size();
  next.rows = committed_.rows + rows;
  next.checksum = checksum(committed_.checksum, bytes);

  Commit announced = committed_;
  announced.limit = std::max(next.length, file_.size());  // a failed write may have left more
  write_commit(announced);
  try {
    file_.write(bytes.data(), bytes.size(), committed_.length);
    file_.truncate(next.length);
    file_.sync();
    write_commit(next);
  } catch (const FileError&) {
    // The announcement may stay: the next append or start removes it. But on a full disk the space is freed
    // at once.
    if (!unknown_state_) (void)::ftruncate(file_.descriptor(), static_cast<off_t>(committed_.length));
    throw;
  }
}

void IndexFile::clear() {
  as_index_error([&] {
    require_usable();
    Commit empty;
    empty.length = kHeaderBytes;
    empty.limit = std::max<std::uint64_t>(file_.size(), kHeaderBytes);
    empty.checksum = checksum(0, header_);
    write_commit(empty);  // from here on the index is empty
    try {
      repair();
    } catch (const FileError&) {
      // Their bytes stay in the file until the next append or start removes them.
    }
  });
}

void IndexFile::require_usable() const {
  if (unknown_state_) {
    throw IndexFileError(path_,
                         "takes no more changes: the folder could not be brought to the disk, so only a "
                         "restart shows whether the last change is there");
  }
  struct stat named {};
  struct stat open {};
  if (::stat(path_.c_str(), &named) != 0 || ::fstat(file_.descriptor(), &open) != 0 ||
      named.st_dev != open.st_dev || named.st_ino != open.st_ino) {
    throw IndexFileError(path_, "was removed or replaced while this server had it open");
  }
}

void IndexFile::write_commit(const Commit& commit) {
  std::string bytes(kCommitMagic);
  put(bytes, kVersion);
  put(bytes, std::uint32_t{0});
  put(bytes, commit.length);
  put(bytes, commit.limit);
  put(bytes, commit.rows);
  put(bytes, commit.checksum);
  put(bytes, checksum(0, bytes));
  const std::filesystem::path temporary = with_suffix(commit_path_, ".tmp");
  {
    const File file(temporary, O_WRONLY | O_CREAT | O_TRUNC, true);
    file.write(bytes.data(), bytes.size(), 0);
    file.sync();
  }
  if (std::rename(temporary.c_str(), commit_path_.c_str()) != 0)
    throw FileError(commit_path_, "cannot be replaced", errno);
  try {
    sync_folder(commit_path_.parent_path());
  } catch (const FileError&) {
    unknown_state_ = true;
    throw;
  }
  committed_ = commit;
}

}  // namespace inference
