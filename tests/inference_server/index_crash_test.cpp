// SPDX-License-Identifier: Apache-2.0
// Changes of the index file that are interrupted or fail. A limit on the size of files stops a write at an
// exact byte: with its signal ignored, write(2) fails as on a full disk; else the signal kills the process
// there.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "index_support.h"

namespace inference::test {
namespace {

/// While it lives, no file of this process grows beyond `bytes`; a write beyond fails.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(std::size_t bytes) {
    before_ = std::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &limit_);
    const rlimit less{bytes, limit_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &less);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &limit_);
    std::signal(SIGXFSZ, before_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  void (*before_)(int) = nullptr;
  rlimit limit_{};
};

class IndexCrashTest : public IndexFileTest {
 protected:
  /// Whether a child process could `change` the index before its first write beyond `bytes` killed it.
  bool survives(std::size_t bytes, const std::function<void(SearchIndex&)>& change) const {
    const pid_t child = ::fork();
    if (child == 0) {
      const rlimit none{0, 0}, limit{bytes, bytes};
      ::setrlimit(RLIMIT_CORE, &none);
      ::setrlimit(RLIMIT_FSIZE, &limit);
      std::signal(SIGXFSZ, SIG_DFL);
      change(*open());
      ::_exit(0);
    }
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    if (WIFSIGNALED(status)) {
      EXPECT_EQ(WTERMSIG(status), SIGXFSZ);
      return false;
    }
    EXPECT_EQ(WEXITSTATUS(status), 0);
    return true;
  }
  void add_first_again() {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    add_all(*open(), first_);
  }
};

TEST_F(IndexCrashTest, AnAddKilledAtAnyByteIsNotThereAndWhatWasAnsweredIs) {
  add_all(*open(), first_);
  const std::string rows = read_bytes(path_), commit = read_bytes(commit_);
  std::size_t killed = 0;
  for (std::size_t bytes = 0;; ++bytes) {
    if (bytes == commit.size() + 1) bytes = rows.size();  // between them FILE.commit fits and no row does
    SCOPED_TRACE(bytes);
    write_bytes(path_, rows);
    write_bytes(commit_, commit);
    const bool answered = survives(bytes, [&](SearchIndex& index) { add_all(index, second_); });
    if (!answered && bytes > rows.size()) {
      EXPECT_EQ(read_bytes(path_).size(), bytes);  // cut in the middle of the rows
    }
    const Contents expected = answered ? both() : first_;
    EXPECT_EQ(reopened(), expected);
    EXPECT_EQ(reopened(), expected);  // the start that removed the rest left valid files
    if (answered) break;
    ++killed;
  }
  EXPECT_EQ(killed, commit.size() + 1 + (read_bytes(path_).size() - rows.size()));
}

TEST_F(IndexCrashTest, AnIndexWhoseAddWasKilledTakesMore) {
  add_all(*open(), first_);
  EXPECT_FALSE(survives(read_bytes(path_).size() + 5, [&](SearchIndex& index) { add_all(index, second_); }));
  add_all(*open(), second_);
  EXPECT_EQ(reopened(), both());
}

TEST_F(IndexCrashTest, AFileKilledWhileItIsMadeIsMadeAnew) {
  bool answered = false;
  for (std::size_t bytes = 0; !answered; ++bytes) {
    SCOPED_TRACE(bytes);
    ASSERT_LT(bytes, 1000u);
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    answered = survives(bytes, [](SearchIndex&) {});
    EXPECT_TRUE(reopened().empty());
    add_all(*open(), first_);
    EXPECT_EQ(reopened(), first_);
  }
}

TEST_F(IndexCrashTest, AClearKilledAnywhereIsWholeOrNotThere) {
  for (std::size_t bytes = 0; bytes < 50; ++bytes) {
    SCOPED_TRACE(bytes);
    add_first_again();
    const bool answered = survives(bytes, [](SearchIndex& index) { index.clear(); });
    EXPECT_EQ(answered, bytes >= 48);
    EXPECT_EQ(reopened(), answered ? Contents() : first_);
  }
  // Killed between its commit and truncating the rows.
  add_first_again();
  const std::string rows = read_bytes(path_);
  write_commit(80, rows.size(), 0, crc(rows.substr(0, 80)));
  EXPECT_TRUE(reopened().empty());
  EXPECT_EQ(read_bytes(path_).size(), 80u);
}

TEST_F(IndexCrashTest, WhateverAnInterruptedAddLeftBehindIsCutOff) {
  add_all(*open(), first_);
  const std::string rows = read_bytes(path_);
  for (const std::string& rest : {std::string(), std::string(30, '\0'), std::string(30, '\xff')}) {
    write_bytes(path_, rows + rest);
    write_commit(rows.size(), rows.size() + 30, 3, crc(rows));
    EXPECT_EQ(reopened(), first_);
    EXPECT_EQ(read_bytes(path_), rows);
    // The commit announced an add, which is now complete.
    write_bytes(path_, rows + "x");
    EXPECT_TRUE(has(refusal(), "something was added at its end")) << refusal();
  }
  write_bytes(path_, rows + std::string(31, '\0'));
  write_commit(rows.size(), rows.size() + 30, 3, crc(rows));
  EXPECT_TRUE(has(refusal(), "something was added at its end")) << refusal();
}

TEST_F(IndexCrashTest, AFullDiskChangesNothing) {
  const auto index = open();
  add_all(*index, first_);
  const std::size_t size = read_bytes(path_).size();
  for (std::size_t bytes = 0; bytes < size + 40; ++bytes) {
    SCOPED_TRACE(bytes);
    {
      const FileSizeLimit full(bytes);
      try {
        add_all(*index, second_);
        FAIL() << "added";
      } catch (const IndexFileError& error) {
        EXPECT_TRUE(error.out_of_space());
        EXPECT_TRUE(has(error.what(), "cannot be written at byte ")) << error.what();
      }
      EXPECT_EQ(index->size(), 3);
    }
    EXPECT_EQ(contents(*index), first_);
    EXPECT_EQ(read_bytes(path_).size(), size);
  }
  add_all(*index, second_);
  EXPECT_EQ(contents(*index), both());
}

TEST_F(IndexCrashTest, AFullDiskAndARestart) {
  for (const std::size_t more : {1, 20, 39}) {
    add_first_again();
    const std::size_t size = read_bytes(path_).size();
    {
      const auto index = open();
      const FileSizeLimit full(size + more);
      EXPECT_THROW(add_all(*index, second_), IndexFileError);
    }
    EXPECT_EQ(reopened(), first_);
  }
}

TEST_F(IndexCrashTest, AFailedClearRemovesNothing) {
  const auto index = open();
  add_all(*index, first_);
  {
    const FileSizeLimit full(10);
    EXPECT_THROW(index->clear(), IndexFileError);
  }
  EXPECT_EQ(contents(*index), first_);
  index->clear();
  EXPECT_EQ(index->size(), 0);
}

TEST_F(IndexCrashTest, AFolderThatTakesNoFileChangesNothing) {
  const auto index = open();
  add_all(*index, first_);
  std::filesystem::create_directory(temporary_);  // permissions do not stop root
  EXPECT_TRUE(has(message_of([&] { add_all(*index, second_); }), temporary_.string() + ": cannot be opened"));
  EXPECT_TRUE(has(message_of([&] { index->clear(); }), "cannot be opened"));
  EXPECT_EQ(contents(*index), first_);
  std::filesystem::remove(temporary_);
  add_all(*index, second_);
  EXPECT_EQ(contents(*index), both());
}

TEST_F(IndexCrashTest, AFileReplacedUnderTheServerTakesNoMore) {
  const auto index = open();
  add_all(*index, first_);
  std::filesystem::rename(path_, folder_ / "moved");
  EXPECT_TRUE(has(message_of([&] { add_all(*index, second_); }), "was removed or replaced"));
  write_bytes(path_, "another");
  EXPECT_TRUE(has(message_of([&] { index->clear(); }), "was removed or replaced"));
  EXPECT_EQ(contents(*index), first_);
}

TEST_F(IndexCrashTest, ReadersDoNotWaitForTheDisk) {
  const auto index = open();
  add_all(*index, first_);
  // Opening a pipe for writing blocks until there is a reader, like a disk that does not answer.
  ASSERT_EQ(::mkfifo(temporary_.c_str(), 0600), 0);
  auto add = std::async(std::launch::async, [&] { return message_of([&] { add_all(*index, second_); }); });
  for (int i = 0; i < 1000; ++i) {
    EXPECT_EQ(index->size(), 3);
    EXPECT_EQ(index->search(std::vector<float>{1, 0, 0}, 1).at(0).text, "one");
    std::this_thread::yield();
  }
  EXPECT_EQ(add.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
  const int reader = ::open(temporary_.c_str(), O_RDONLY);
  EXPECT_TRUE(has(add.get(), temporary_.string())) << "a pipe cannot be brought to the disk";
  ::close(reader);
  std::filesystem::remove(temporary_);
  EXPECT_EQ(contents(*index), first_);
  add_all(*index, second_);
  EXPECT_EQ(contents(*index), both());
}

}  // namespace
}  // namespace inference::test
