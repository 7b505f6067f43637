// SPDX-License-Identifier: Apache-2.0
// Valid, damaged and hostile .safetensors files.
#include "safetensors.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "support.h"

namespace inference {
namespace {

class SafeTensorsTest : public test::FolderTest {
 protected:
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
};

const std::string kGood =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
    R"("b":{"dtype":"I64","shape":[1],"data_offsets":[16,24]},)"
    R"("c":{"dtype":"F32","shape":[],"data_offsets":[24,28]}})";

TEST_F(SafeTensorsTest, ReadsTensorsByName) {
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

TEST_F(SafeTensorsTest, TensorsAreAlignedWhereverTheFileHasThem) {
  for (std::size_t spaces = 0; spaces < 8; ++spaces) {
    const std::string header = R"({"flag":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                               R"("a":{"dtype":"F32","shape":[2],"data_offsets":[1,9]},)"
                               R"("none":{"dtype":"F32","shape":[0,3],"data_offsets":[9,9]},)"
                               R"("b":{"dtype":"F32","shape":[1],"data_offsets":[9,13]}})";
    const SafeTensors file(write(header + std::string(spaces, ' '), "x" + floats({1, 2, 3})));
    for (const auto& [name, values] : {std::pair{"a", std::vector<float>{1, 2}}, {"b", {3}}}) {
      const auto tensor = file.f32(name, {std::ssize(values)});
      EXPECT_EQ(std::vector<float>(tensor.begin(), tensor.end()), values);
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.data()) % 64, 0u);
    }
    EXPECT_TRUE(file.f32("none", {0, 3}).empty());
  }
}

TEST_F(SafeTensorsTest, AFileCutShortLaterHarmsNobody) {
  const std::vector<float> values(100'000, 1.5f);
  const auto path =
      write(R"({"a":{"dtype":"F32","shape":[100000],"data_offsets":[0,400000]}})", floats(values));
  const SafeTensors file(path);
  std::filesystem::resize_file(path, 0);
  const auto a = file.f32("a", {100'000});
  EXPECT_EQ(std::vector<float>(a.begin(), a.end()), values);
}

TEST_F(SafeTensorsTest, TheFileIsInMemoryOnce) {
  constexpr std::size_t kFloats = 4 << 20;
  const auto path = write(R"({"a":{"dtype":"F32","shape":[4194304],"data_offsets":[0,16777216]}})",
                          std::string(kFloats * sizeof(float), '\0'));
  EXPECT_LT(test::peak_memory([&] { EXPECT_EQ(SafeTensors(path).f32("a", {4194304}).size(), kFloats); }),
            kFloats * sizeof(float) + 100'000);
}

TEST_F(SafeTensorsTest, ValuesThatAreNotFiniteAreRefused) {
  const std::string header = R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
                             R"("b":{"dtype":"F32","shape":[],"data_offsets":[24,28]}})";
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto refused = [&](const std::vector<float>& values, const char* name,
                           const std::vector<std::int64_t>& shape) {
    const SafeTensors file(write(header, floats(values)));
    return test::message_of([&] { (void)file.f32(name, shape); });
  };
  EXPECT_EQ(refused({1, 2, 3, 4, 5, 6, inf}, "a", {2, 3}), "no error");
  for (const auto& [value, text] : {std::pair{inf, "inf"}, {-inf, "-inf"}, {nan, "nan"}}) {
    EXPECT_TRUE(
        has(refused({1, 2, 3, value, 5, 6, 7}, "a", {2, 3}),
            std::string("tensor 'a': the value at [1, 0] is ") + text + ", expected a finite number"));
    EXPECT_TRUE(
        has(refused({1, 2, value, 4, 5, value, 7}, "a", {2, 3}), "tensor 'a': the value at [0, 2] is "));
    EXPECT_TRUE(has(refused({1, 2, 3, 4, 5, 6, value}, "b", {}),
                    std::string("tensor 'b': the value at [] is ") + text));
  }
}

TEST_F(SafeTensorsTest, DeepHeadersTakeNeitherStackNorMemory) {
  const std::string deep = "header is not JSON of at most 4 nested levels";
  for (const std::size_t depth : {std::size_t{5}, std::size_t{75'000}, std::size_t{4'000'000}}) {
    for (const std::string before :
         {R"({"w":)", R"({"w":{"shape":)", R"({"w":{"dtype":)", R"({"w":{"x":)", R"({"__metadata__":)"}) {
      const auto path = write(before + std::string(depth, '['), "");
      test::on_small_stack([&] {
        std::string text;
        const std::size_t peak = test::peak_memory([&] { text = message(path); });
        // A wrong type may be reported before the depth.
        EXPECT_TRUE(has(text, deep) || has(text, "must be")) << text;
        EXPECT_LT(peak, 2 * depth + 100'000);
      });
    }
    EXPECT_TRUE(has(
        message(R"({"__metadata__":)" + std::string(depth, '[') + std::string(depth, ']') + "}", ""), deep));
  }
}

TEST_F(SafeTensorsTest, LongNamesAreRefusedAndCutInTheMessage) {
  const auto named = [&](std::size_t bytes) {
    return message("{\"" + std::string(bytes, 'w') + R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
                   "");
  };
  EXPECT_EQ(named(1024), "no error");
  for (const std::size_t bytes : {1025, 4'000'000}) {
    const std::string text = named(bytes);
    EXPECT_TRUE(has(text, "has a name of " + std::to_string(bytes) + " bytes, at most 1024")) << text.size();
    EXPECT_LT(text.size(), 600u);
  }
}

TEST_F(SafeTensorsTest, HeadersAbove16MiBAreRefused) {
  const std::string most = "{}" + std::string((16 << 20) - 2, ' ');
  EXPECT_EQ(SafeTensors(write(most, "")).size(), 0u);
  EXPECT_TRUE(has(message(most + " ", ""), "header length 16777217 is above 16777216"));
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
      {entry("1"), "", "tensor 'w': must be an object, is 1"},
      {entry("[1]"), "", "tensor 'w': must be an object, is an array"},
      {R"({"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
       "", "tensor 'w': is named twice"},
      {entry(R"({"dtype":"U8","shape":[0],"shape":[1],"data_offsets":[0,0]})"), "",
       "tensor 'w': has 'shape' twice"},
      {entry(R"({"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]})"), "1",
       "tensor 'w': shape has more than 16 dimensions"},
      {entry(R"({"dtype":"F32","shape":[[1]],"data_offsets":[0,4]})"), "1234",
       "tensor 'w': every extent of shape must be a non-negative integer, is an array"},
      {entry(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4,8]})"), "1234",
       "tensor 'w': data_offsets must be [begin, end]"},
      {entry(R"({"dtype":"F32","shape":[1],"data_offsets":{}})"), "1234",
       "tensor 'w': data_offsets must be [begin, end], is an object"},
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
