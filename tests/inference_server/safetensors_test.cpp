// Whole, damaged and hostile .safetensors files.
#include "safetensors.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace inference {
namespace {

class SafeTensorsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) /
              ("safetensors_" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path write(const std::string& header, const std::string& data, std::uint64_t length) {
    const std::filesystem::path path = folder_ / "model.safetensors";
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(&length), sizeof length);
    file << header << data;
    return path;
  }
  std::filesystem::path write(const std::string& header, const std::string& data) {
    return write(header, data, header.size());
  }
  static std::string floats(const std::vector<float>& values) {
    return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
  }
  std::string message(const std::string& header, const std::string& data) {
    return message(write(header, data));
  }
  static std::string message(const std::filesystem::path& path) {
    try {
      const SafeTensors file(path);
    } catch (const std::runtime_error& error) {
      EXPECT_NE(std::string(error.what()).find(path.string()), std::string::npos) << error.what();
      return error.what();
    }
    return "no error";
  }
  static bool has(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  }
  std::filesystem::path folder_;
};

// Padded to a multiple of 4, so that the data is aligned.
const std::string kGood =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
    R"("b":{"dtype":"I64","shape":[1],"data_offsets":[16,24]},)"
    R"("c":{"dtype":"F32","shape":[],"data_offsets":[24,28]}}   )";

TEST_F(SafeTensorsTest, ReadsTensorsByName) {
  ASSERT_EQ(kGood.size() % 4, 0u);
  const SafeTensors file(write(kGood, floats({1, 2, 3, 4, 0, 0, 5})));
  EXPECT_EQ(file.size(), 3u);
  const auto a = file.f32("a", {2, 2});
  EXPECT_EQ(std::vector<float>(a.begin(), a.end()), (std::vector<float>{1, 2, 3, 4}));
  EXPECT_EQ(file.f32("c", {})[0], 5.0f);
}

TEST_F(SafeTensorsTest, WrongRequestsNameTheTensor) {
  const SafeTensors file(write(kGood, floats({1, 2, 3, 4, 0, 0, 5})));
  const auto refused = [&](const std::string& name, const std::vector<std::int64_t>& shape) -> std::string {
    try {
      (void)file.f32(name, shape);
    } catch (const std::runtime_error& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_TRUE(has(refused("z", {1}), "tensor 'z' is missing")) << refused("z", {1});
  EXPECT_TRUE(has(refused("b", {1}), "tensor 'b': dtype is I64, expected F32")) << refused("b", {1});
  EXPECT_TRUE(has(refused("a", {4}), "tensor 'a': shape is [2, 2], expected [4]")) << refused("a", {4});
  EXPECT_TRUE(has(refused("a", {2, 3}), "expected [2, 3]")) << refused("a", {2, 3});
}

TEST_F(SafeTensorsTest, MisalignedDataIsRefused) {
  const SafeTensors file(write(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}} )", floats({1})));
  EXPECT_THROW((void)file.f32("a", {1}), std::runtime_error);
}

TEST_F(SafeTensorsTest, FilesThatAreNoSafetensors) {
  EXPECT_TRUE(has(message(folder_ / "absent"), "cannot be opened"));
  EXPECT_TRUE(has(message(folder_), "is not a regular file"));
  std::ofstream(folder_ / "short") << "1234567";
  EXPECT_TRUE(has(message(folder_ / "short"), "has 7 bytes"));
  std::ofstream(folder_ / "empty").flush();
  EXPECT_TRUE(has(message(folder_ / "empty"), "has 0 bytes"));
  for (const std::uint64_t length : {std::uint64_t{3}, std::uint64_t{1} << 40, ~std::uint64_t{0}}) {
    const std::string text = message(write("{}", "", length));
    EXPECT_TRUE(has(text, "header length " + std::to_string(length))) << text;
  }
}

TEST_F(SafeTensorsTest, DamagedHeadersNameTheTensorAndTheFault) {
  const auto entry = [](const std::string& body) { return "{\"w\":" + body + "}"; };
  const struct {
    std::string header;
    std::string data;
    std::string part;
  } cases[] = {
      {"{", "", "header is not JSON"},
      {"\xff\xfe", "", "header is not JSON"},
      {"[]", "", "header must be a JSON object"},
      {entry("1"), "", "tensor 'w': must be an object"},
      {entry(R"({"shape":[1],"data_offsets":[0,4]})"), "1234", "tensor 'w': has no 'dtype'"},
      {entry(R"({"dtype":"F32","data_offsets":[0,4]})"), "1234", "tensor 'w': has no 'shape'"},
      {entry(R"({"dtype":"F32","shape":[1]})"), "1234", "tensor 'w': has no 'data_offsets'"},
      {entry(R"({"dtype":7,"shape":[1],"data_offsets":[0,4]})"), "1234",
       "tensor 'w': dtype must be a string"},
      {entry(R"({"dtype":"F33","shape":[1],"data_offsets":[0,4]})"), "1234",
       "tensor 'w': dtype 'F33' is not known"},
      {entry(R"({"dtype":"F32","shape":4,"data_offsets":[0,4]})"), "1234",
       "tensor 'w': shape must be an array"},
      {entry(R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})"), "1234",
       "tensor 'w': every extent of shape"},
      {entry(R"({"dtype":"F32","shape":[1.0],"data_offsets":[0,4]})"), "1234",
       "tensor 'w': every extent of shape"},
      {entry(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]})"), "1234",
       "overflows 64 bits"},
      {entry(R"({"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,4]})"), "1234",
       "overflows 64 bits"},
      {entry(R"({"dtype":"F32","shape":[1],"data_offsets":[0]})"), "1234",
       "data_offsets must be [begin, end]"},
      {entry(R"({"dtype":"F32","shape":[1],"data_offsets":[-4,0]})"), "1234",
       "data_offsets[0] must be a non-negative"},
      {entry(R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})"), "1234", "do not hold F32 [1] (4 bytes)"},
      {entry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})"), "1234", "do not hold F32 [2] (8 bytes)"},
      {entry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})"), "1234", "ends at byte 8 of 4"},
      {entry(R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})"), "12345678",
       "begins at byte 4 and leaves a gap"},
      {entry(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})"), "12345678",
       "4 bytes at the end belong to no tensor"},
      {R"({"v":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       "12345678", "tensor 'w': begins at byte 4 and overlaps"},
  };
  for (const auto& test : cases) {
    const std::string text = message(test.header, test.data);
    EXPECT_TRUE(has(text, test.part)) << test.header << "\n  gave: " << text << "\n  not:  " << test.part;
  }
}

}  // namespace
}  // namespace inference
