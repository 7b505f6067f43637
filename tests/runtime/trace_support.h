// SPDX-License-Identifier: Apache-2.0
// What the tests of traces share: calls that are traced, and the file's contents by an independent JSON
// parser.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"

namespace kumiko::test {

using Json = nlohmann::json;
namespace fs = std::filesystem;

/// A temporary folder.
class Folder {
 public:
  Folder()
      : path_(fs::path(testing::TempDir()) /
              ("kumiko_trace_" + std::to_string(getpid()) + "_" +
               testing::UnitTest::GetInstance()->current_test_info()->name())) {
    fs::create_directory(path_);
  }
  ~Folder() { fs::remove_all(path_); }
  std::string file(const std::string& name) const { return (path_ / name).string(); }
  std::set<std::string> names() const {
    std::set<std::string> found;
    for (const auto& entry : fs::directory_iterator(path_)) found.insert(entry.path().filename().string());
    return found;
  }

 private:
  fs::path path_;
};

inline std::string contents(const std::string& file) {
  std::ostringstream text;
  text << std::ifstream(file).rdbuf();
  return text.str();
}

inline Context traced(const std::string& file, const std::string& executor = "openmp") {
  ContextOptions options;
  options.topology = "numa:2 l3:1 core:2 pu:1";
  options.executor = executor;
  options.trace = file;
  Context context;
  const Status status = Context::create(options, &context);
  EXPECT_TRUE(status.ok()) << status.message();
  return context;
}

inline Case prefill() {
  Case c;
  c.batch = 2;
  c.q_heads = 4;
  c.kv_heads = 2;
  c.q_len = 150;
  c.kv_len = 700;
  c.head_dim = c.v_head_dim = 16;
  c.is_causal = true;
  return c;
}

inline Case decode() {
  Case c = prefill();
  c.q_len = 1;
  c.kv_len = 3000;
  return c;
}

/// Decode whose tasks have both heads: there are splits enough for four workers.
inline Case side_by_side() {
  Case c = decode();
  c.kv_len = 4000;
  c.k_layout = c.v_layout = Layout::bshd;
  return c;
}

/// The spans of one category by lane, as [begin, end) in the file's microseconds.
using Lane = std::pair<int, int>;
struct Span {
  double begin, end;
  std::string name;
  Json args;
};
inline std::map<Lane, std::vector<Span>> spans(const Json& trace, const std::string& category) {
  std::map<Lane, std::vector<Span>> result;
  for (const Json& event : trace.at("traceEvents")) {
    if (event.at("ph") != "X" || event.at("cat") != category) continue;
    const double begin = event.at("ts"), duration = event.at("dur");
    EXPECT_GE(duration, 0);
    result[{event.at("pid"), event.at("tid")}].push_back(
        {begin, begin + duration, event.at("name"), event.value("args", Json::object())});
  }
  return result;
}

inline std::int64_t number_after(const std::string& text, const std::string& words) {
  const std::size_t at = text.find(words);
  EXPECT_NE(at, std::string::npos) << words << " in " << text;
  return at == std::string::npos ? -1 : std::stoll(text.substr(at + words.size()));
}

}  // namespace kumiko::test
