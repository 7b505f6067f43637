// SPDX-License-Identifier: Apache-2.0
// What an index stores in its file, and which files it refuses.
#include "index_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "index_support.h"

namespace inference::test {
namespace {

TEST_F(IndexFileTest, ARestartFindsWhatWasAdded) {
  EXPECT_TRUE(contents(*open()).empty());
  add_all(*open(), first_);
  EXPECT_EQ(reopened(), first_);
  {
    const auto index = open();
    EXPECT_EQ(index->add({"one", "four", "five", "four"},
                         std::vector<float>{1, 0, 0, 0.25f, 0, 0, 0, 0, 0, 1, 1, 1}),
              2);
    EXPECT_EQ(contents(*index), both());
  }
  EXPECT_EQ(reopened(), both());
  open()->clear();
  EXPECT_TRUE(reopened().empty());
  add_all(*open(), second_);
  EXPECT_EQ(reopened(), second_);
}

TEST_F(IndexFileTest, EqualsAnIndexInMemoryAfterAnySequence) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> value(-1, 1);
    SearchIndex memory(kWidth, 1000);
    auto file = open();
    for (int step = 0; step < 30; ++step) {
      switch (random() % 8) {
        case 0:
          memory.clear();
          file->clear();
          break;
        case 1:
        case 2:
          file.reset();
          file = open();
          break;
        default: {
          std::vector<std::string> texts(random() % 6);
          for (std::string& text : texts)
            text = std::string(random() % 4, 'x') + std::to_string(random() % 50);
          std::vector<float> vectors(texts.size() * kWidth);
          for (float& v : vectors) v = value(random);
          EXPECT_EQ(file->add(texts, vectors), memory.add(texts, vectors));
        }
      }
      EXPECT_EQ(file->size(), memory.size());
      EXPECT_EQ(contents(*file), contents(memory));
    }
    file.reset();
    EXPECT_EQ(reopened(), contents(memory));
  }
}

TEST_F(IndexFileTest, AnAddAppendsAndRewritesNothing) {
  add_all(*open(), first_);
  const std::string before = read_bytes(path_);
  add_all(*open(), second_);
  const std::string after = read_bytes(path_);
  EXPECT_EQ(after.substr(0, before.size()), before);
  EXPECT_EQ(after.size() - before.size(), 2 * (4 + kWidth * 4) + std::string("fourfive").size());
}

TEST_F(IndexFileTest, EveryTruncationIsRefused) {
  add_all(*open(), both());
  for (const auto& path : {path_, commit_}) {
    const std::string whole = read_bytes(path);
    ASSERT_GT(whole.size(), 40u);
    for (std::size_t length = 0; length < whole.size(); ++length) {
      write_bytes(path, whole.substr(0, length));
      EXPECT_TRUE(has(refusal(), path.string() + ": ")) << path << " cut to " << length << ": " << refusal();
      EXPECT_EQ(read_bytes(path).size(), length);  // a refused file is left as it is
    }
    write_bytes(path, whole);
  }
  EXPECT_EQ(reopened(), both());
}

TEST_F(IndexFileTest, EveryFlippedBitIsRefused) {
  add_all(*open(), both());
  for (const auto& path : {path_, commit_}) {
    const std::string whole = read_bytes(path);
    for (std::size_t bit = 0; bit < 8 * whole.size(); ++bit) {
      std::string damaged = whole;
      damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
      write_bytes(path, damaged);
      EXPECT_TRUE(has(refusal(), folder_.string())) << path << " bit " << bit << ": " << refusal();
      EXPECT_EQ(read_bytes(path), damaged);
    }
    write_bytes(path, whole);
  }
  EXPECT_EQ(reopened(), both());
}

TEST_F(IndexFileTest, ADamagedHeaderIsCalledDamaged) {
  add_all(*open(), first_);
  const std::string whole = read_bytes(path_);
  for (const std::size_t byte : {std::size_t{16} + std::string(kModel).size() + 1, std::size_t{79}}) {
    std::string damaged = whole;
    damaged[byte] = 'x';
    write_bytes(path_, damaged);
    EXPECT_TRUE(has(refusal(), "is damaged: its header has other bytes than were written")) << refusal();
  }
}

TEST_F(IndexFileTest, BytesAtTheEndAreRefused) {
  add_all(*open(), first_);
  for (const auto& path : {path_, commit_}) {
    const std::string whole = read_bytes(path);
    write_bytes(path, whole + '\0');
    EXPECT_TRUE(has(refusal(), path.string() + ": has " + std::to_string(whole.size() + 1) + " bytes, "))
        << refusal();
    write_bytes(path, whole);
  }
}

TEST_F(IndexFileTest, HalfOfThePairIsRefused) {
  add_all(*open(), first_);
  const std::string data = read_bytes(path_);
  std::filesystem::remove(path_);
  EXPECT_TRUE(has(refusal(), "were committed: it was cut short")) << refusal();
  write_bytes(path_, data);
  std::filesystem::remove(commit_);
  EXPECT_TRUE(has(refusal(), "index.commit is missing")) << refusal();
}

TEST_F(IndexFileTest, OfAnotherModelOrWidthIsRefused) {
  add_all(*open(), first_);
  EXPECT_TRUE(
      has(message_of([&] { (void)open("model B"); }), "is of the model 'model A', this one is 'model B'"));
  EXPECT_TRUE(has(message_of([&] { (void)open(kModel, 4); }), "has vectors of 3 floats, the model's have 4"));
  EXPECT_THROW((void)open(std::string(65, 'x').c_str()), std::invalid_argument);
  EXPECT_EQ(reopened(), first_);
}

TEST_F(IndexFileTest, OneServerAtATime) {
  const auto index = open();
  EXPECT_TRUE(has(refusal(), "is in use by another process")) << refusal();
  add_all(*index, first_);
}

TEST_F(IndexFileTest, WhatIsNoFileIsRefused) {
  std::filesystem::create_directory(path_);
  EXPECT_TRUE(has(refusal(), path_.string() + ": cannot be opened")) << refusal();
  std::filesystem::remove(path_);
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  EXPECT_TRUE(has(refusal(), "is not a regular file")) << refusal();
  std::filesystem::remove(path_);
  path_ = folder_ / "no such folder" / "index";
  EXPECT_TRUE(has(refusal(), "cannot be opened")) << refusal();
}

TEST_F(IndexFileTest, RowsThatNoServerWroteAreRefused) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> sound{1, 0, 0};
  const struct {
    std::vector<std::pair<std::string, std::vector<float>>> rows;
    std::string part;
  } cases[] = {
      {{{"a", {0, nan, 0}}}, "row 0: value 1 of the vector is nan, expected -1..1"},
      {{{"a", sound}, {"b", {0, 0, -inf}}}, "row 1: value 2 of the vector is -inf, expected -1..1"},
      {{{"a", {1e30f, 0, 0}}}, "row 0: value 0 of the vector is "},
      {{{"a", sound}, {"\xff", sound}}, "row 1: byte 0"},
      {{{"a", sound}, {"b", sound}, {"a", sound}}, "row 2: its text is there twice"},
  };
  for (const auto& test : cases) {
    std::filesystem::remove(path_);
    std::filesystem::remove(commit_);
    std::vector<IndexFile::Row> rows;
    for (const auto& [text, vector] : test.rows) rows.push_back({text, vector});
    IndexFile(path_, kModel, kWidth).append(rows);
    EXPECT_TRUE(has(refusal(), path_.string() + ": " + test.part)) << refusal();
  }
}

TEST_F(IndexFileTest, AbsurdNumbersWithARightChecksumAreRefusedWithoutMemory) {
  (void)open();
  const std::string header = read_bytes(path_);
  const auto row = [](std::uint32_t length, const std::string& text) {
    return std::string(reinterpret_cast<const char*>(&length), 4) + text + std::string(kWidth * 4, '\0');
  };
  const struct {
    std::string rows;
    std::uint64_t count;
    std::string part;
  } cases[] = {
      {row(0xffffffff, "a"), 1, "has a text of 4294967295 bytes, at most 1 are left"},
      {row(2, "a"), 1, "has a text of 2 bytes, at most 1 are left"},
      {row(1, "a"), 2, "too few for 2 texts"},
      {row(1, "a") + row(0, "").substr(1), 2, "row 1 of 2, which ends before byte 97, is cut short"},
      {row(9, "123456789") + "123456789", 2, "is cut short"},
      {row(1, "a"), std::uint64_t{1} << 62, "too few for 4611686018427387904 texts"},
      {row(1, "a"), ~std::uint64_t{0}, "too few for"},
      {row(1, "a") + row(1, "b"), 1, "is followed by 17 bytes"},
      {row(0, ""), 0, "is followed by 16 bytes"},
  };
  for (const auto& test : cases) {
    const std::string bytes = header + test.rows;
    write_bytes(path_, bytes);
    write_commit(bytes.size(), bytes.size(), test.count, crc(bytes));
    std::string said;
    EXPECT_LT(peak_memory([&] { said = refusal(); }), 100'000u);
    EXPECT_TRUE(has(said, test.part)) << said;
  }
  for (const auto& [length, limit] :
       {std::pair<std::uint64_t, std::uint64_t>{40, 80}, {~std::uint64_t{0}, 80}, {80, 79}}) {
    write_bytes(path_, header);
    write_commit(length, limit, 0, crc(header.substr(0, length)));
    EXPECT_TRUE(has(refusal(), path_.string() + ": has ")) << length << " " << limit << ": " << refusal();
  }
}

TEST_F(IndexFileTest, ALeftoverOfFileCommitIsNoHarm) {
  add_all(*open(), first_);
  write_bytes(temporary_, "KUMIKOIC torn");
  EXPECT_EQ(reopened(), first_);
  add_all(*open(), second_);
  EXPECT_EQ(reopened(), both());
}

TEST_F(IndexFileTest, ManyThreadsAndARestart) {
  auto index = open();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 10; ++i) {
        const std::string text = std::to_string(i) + (i % 2 ? " shared" : " of " + std::to_string(t));
        (void)index->add({text}, std::vector<float>{0, 1, 0});
        EXPECT_GE(index->size(), 1);
        EXPECT_FALSE(index->search(std::vector<float>{0, 1, 0}, 3).empty());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(index->size(), 4 * 5 + 5);
  const Contents before = contents(*index);
  index.reset();
  EXPECT_EQ(reopened(), before);
}

TEST_F(IndexFileTest, LimitsHoldForTheFileToo) {
  add_all(*open(), first_);
  const auto refused = [&](std::int64_t texts, std::int64_t bytes) {
    return message_of([&] { (void)SearchIndex::open(path_, kModel, kWidth, texts, bytes); });
  };
  EXPECT_EQ(refused(3, 9), "no error");
  EXPECT_TRUE(has(refused(2, 9), path_.string() + ": holds 3 texts, the index has room for 2"))
      << refused(2, 9);
  EXPECT_TRUE(
      has(refused(3, 8), path_.string() + ": the texts up to row 2: 9 bytes, the index has room for 8"))
      << refused(3, 8);
  EXPECT_EQ(reopened(), first_);
}

}  // namespace
}  // namespace inference::test
