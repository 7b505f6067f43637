// SPDX-License-Identifier: Apache-2.0
// An index of 3 floats a text in a file, and its contents.
#pragma once

#include <zlib.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "search_index.h"
#include "support.h"

namespace inference::test {

constexpr std::int64_t kWidth = 3;
constexpr const char* kModel = "model A";

/// Texts with their vectors, in the order of indexing.
using Contents = std::vector<std::pair<std::string, std::vector<float>>>;

inline Contents contents(const SearchIndex& index) {
  Contents all(static_cast<std::size_t>(index.size()));
  for (std::size_t axis = 0; axis < kWidth; ++axis) {
    std::vector<float> query(kWidth, 0.0f);
    query[axis] = 1;
    const auto hits = index.search(query, index.size());
    EXPECT_EQ(std::ssize(hits), index.size());
    for (const SearchIndex::Hit& hit : hits) {
      auto& [text, vector] = all.at(static_cast<std::size_t>(hit.id));
      text = hit.text;
      vector.push_back(hit.score);
    }
  }
  return all;
}

inline void add_all(SearchIndex& index, const Contents& rows) {
  std::vector<std::string> texts;
  std::vector<float> vectors;
  for (const auto& [text, vector] : rows) {
    texts.push_back(text);
    vectors.insert(vectors.end(), vector.begin(), vector.end());
  }
  EXPECT_EQ(index.add(texts, vectors), std::ssize(rows));
}

class IndexFileTest : public FolderTest {
 protected:
  void SetUp() override {
    FolderTest::SetUp();
    path_ = folder_ / "index";
    commit_ = folder_ / "index.commit";
    temporary_ = folder_ / "index.commit.tmp";
  }
  std::unique_ptr<SearchIndex> open(const char* model = kModel, std::int64_t width = kWidth) const {
    return SearchIndex::open(path_, model, width, 1000);
  }
  Contents reopened() const { return contents(*open()); }
  std::string refusal() const {
    return message_of([&] { (void)open(); });
  }
  static bool has(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  }
  /// A FILE.commit with a valid checksum.
  void write_commit(std::uint64_t length, std::uint64_t limit, std::uint64_t rows,
                    std::uint32_t data_sum) const {
    std::string bytes("KUMIKOIC\1\0\0\0\0\0\0\0", 16);
    const auto put = [&](auto number) {
      bytes.append(reinterpret_cast<const char*>(&number), sizeof number);
    };
    put(length);
    put(limit);
    put(rows);
    put(data_sum);
    put(crc(bytes));
    write_bytes(commit_, bytes);
  }
  static std::uint32_t crc(const std::string& bytes) {
    return static_cast<std::uint32_t>(
        crc32_z(0, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()));
  }
  const Contents first_{{"one", {1, 0, 0}}, {"", {0, 0.5f, 0}}, {"zw\xc3\xb6lf", {0, 0, -1}}};
  const Contents second_{{"four", {0.25f, 0, 0}}, {"five", {0, 0, 0}}};
  Contents both() const {
    Contents all = first_;
    all.insert(all.end(), second_.begin(), second_.end());
    return all;
  }
  std::filesystem::path path_, commit_, temporary_;
};

}  // namespace inference::test
