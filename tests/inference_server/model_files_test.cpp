// SPDX-License-Identifier: Apache-2.0
// The files beside the weights: valid, damaged and hostile ones.
#include <gtest/gtest.h>

#include <string>

#include "model_config.h"
#include "support.h"
#include "tokenizer.h"

namespace inference::test {
namespace {

class ModelFilesTest : public FolderTest {
 protected:
  void SetUp() override {
    FolderTest::SetUp();
    std::filesystem::create_directory(folder_ / "1_Pooling");
    write_bytes(folder_ / "config.json", kConfig);
    write_bytes(folder_ / "sentence_bert_config.json", R"({"max_seq_length": 256, "do_lower_case": false})");
    write_bytes(
        folder_ / "1_Pooling" / "config.json",
        R"({"pooling_mode_mean_tokens":true,"pooling_mode_cls_token":false,"pooling_mode_max_tokens":false})");
    write_bytes(folder_ / "vocab.txt", "[UNK]\n[CLS]\n[SEP]\na\n##b\n");
    write_bytes(folder_ / "model.safetensors", std::string("\2\0\0\0\0\0\0\0{}", 10));
  }
  /// The error of loading with `from` replaced by `to` in config.json.
  std::string with(const std::string& from, const std::string& to) const {
    std::string config = kConfig;
    config.replace(config.find(from), from.size(), to);
    write_bytes(folder_ / "config.json", config);
    return message();
  }
  std::string message() const {
    const std::string text = message_of([&] { (void)ModelConfig::load(folder_); });
    const std::string file = (folder_ / "config.json").string() + ": ";
    return text.starts_with(file) ? text.substr(file.size()) : text;
  }
  inline static const std::string kConfig =
      R"({"model_type":"bert","hidden_act":"gelu","position_embedding_type":"absolute","hidden_size":12,)"
      R"("intermediate_size":24,"num_attention_heads":3,"num_hidden_layers":2,"vocab_size":5,)"
      R"("max_position_embeddings":512,"type_vocab_size":2,"layer_norm_eps":1e-12,"id2label":{"0":["x"]}})";
};

TEST_F(ModelFilesTest, AreRead) {
  const ModelConfig config = ModelConfig::load(folder_);
  EXPECT_EQ(config.hidden, 12);
  EXPECT_EQ(config.head_dim(), 4);
  EXPECT_EQ(config.max_tokens, 256);
  EXPECT_EQ(config.layer_norm_eps, 1e-12f);
  EXPECT_EQ(with("1e-12", "1"), "no error");
}

TEST_F(ModelFilesTest, FaultsNameTheKey) {
  EXPECT_EQ(with("\"hidden_size\":12,", ""), "'hidden_size' is missing, expected an integer in 1..2^24");
  EXPECT_EQ(with("12", "0"), "'hidden_size' is 0, expected an integer in 1..2^24");
  EXPECT_EQ(with("12", "-12"), "'hidden_size' is -12, expected an integer in 1..2^24");
  EXPECT_EQ(with("12", "12.0"), "'hidden_size' is 12.0, expected an integer in 1..2^24");
  EXPECT_EQ(with("12", "18446744073709551615"),
            "'hidden_size' is 18446744073709551615, expected an integer in 1..2^24");
  EXPECT_EQ(with("12", "[[12]]"), "'hidden_size' is an array, expected an integer in 1..2^24");
  EXPECT_EQ(with("12", "13"), "'hidden_size' 13 is not a multiple of 'num_attention_heads' 3");
  for (const char* eps : {"0", "0.0", "-1e-12", "1e-60", "1e60", "true", "{}"}) {
    const std::string said = with("1e-12", eps);
    EXPECT_TRUE(said.starts_with("'layer_norm_eps' is ")) << said;
    EXPECT_TRUE(said.ends_with(", expected a number above 0 that an f32 holds")) << said;
  }
  EXPECT_EQ(with("\"bert\"", "\"gpt2\""), "'model_type' is \"gpt2\", this server computes only \"bert\"");
  EXPECT_EQ(with("\"bert\"", "{}"), "'model_type' is an object, this server computes only \"bert\"");
  EXPECT_EQ(with("{\"model_type\"", "{\"vocab_size\":7,\"model_type\""), "\"vocab_size\" is given twice");
  EXPECT_EQ(with(kConfig, "[]"), "must be a JSON object, is an array");
  EXPECT_TRUE(with(kConfig, kConfig.substr(0, kConfig.size() - 1)).starts_with("is not JSON: "));
  write_bytes(folder_ / "config.json", kConfig);
  write_bytes(folder_ / "1_Pooling" / "config.json", R"({"pooling_mode_mean_tokens":false})");
  EXPECT_TRUE(message().ends_with("'pooling_mode_mean_tokens' is false, this server computes only true"));
}

TEST_F(ModelFilesTest, DepthAndSizeAreBounded) {
  for (const std::size_t depth : {std::size_t{8}, std::size_t{75'000}, std::size_t{500'000}}) {
    std::string said;
    on_small_stack([&] {
      EXPECT_LT(peak_memory([&] { said = with("12", std::string(depth, '[') + std::string(depth, ']')); }),
                12 * depth + 100'000);
    });
    EXPECT_EQ(said, "is not JSON of at most 8 nested levels");
  }
  const std::size_t most = 1 << 20;
  EXPECT_EQ(with(kConfig, kConfig + std::string(most - kConfig.size(), ' ')), "no error");
  EXPECT_EQ(with(kConfig, kConfig + std::string(most - kConfig.size() + 1, ' ')),
            "has 1048577 bytes, at most 1048576 are read");
  std::filesystem::remove(folder_ / "config.json");
  EXPECT_TRUE(message().starts_with("cannot be opened")) << message();
  std::filesystem::create_directory(folder_ / "config.json");
  EXPECT_EQ(message(), "is not a regular file");
}

TEST_F(ModelFilesTest, FingerprintChangesWithEveryFile) {
  const std::string before = model_fingerprint(folder_);
  EXPECT_LE(before.size(), 64u);
  EXPECT_EQ(model_fingerprint(folder_), before);
  for (const char* name : {"model.safetensors", "vocab.txt", "config.json", "sentence_bert_config.json",
                           "1_Pooling/config.json"}) {
    const std::string whole = read_bytes(folder_ / name);
    std::string other = whole;
    other.back() = static_cast<char>(other.back() ^ 1);
    write_bytes(folder_ / name, other);
    EXPECT_NE(model_fingerprint(folder_), before) << name;
    write_bytes(folder_ / name, whole);
  }
  EXPECT_EQ(model_fingerprint(folder_), before);
}

TEST_F(ModelFilesTest, VocabularyFaultsNameTheLine) {
  const std::filesystem::path vocab = folder_ / "vocab.txt";
  const auto said = [&](const std::string& text) {
    write_bytes(vocab, text);
    const std::string all = message_of([&] { const Tokenizer tokenizer(vocab); });
    return all.starts_with(vocab.string()) ? all.substr(vocab.string().size()) : all;
  };
  EXPECT_EQ(said("[UNK]\r\n[CLS]\n[SEP]"), "no error");
  EXPECT_EQ(said("[UNK]\n[CLS]\n[SEP]\na\n\na\n"), ":6: 'a' is named twice");
  EXPECT_TRUE(said("[UNK]\n[CLS]\n[SEP]\nb\xff\n").starts_with(":4: byte 1")) << said("[UNK]\nb\xff\n");
  EXPECT_EQ(said("[UNK]\n[CLS]\n"), ": has no [SEP]");
  EXPECT_EQ(said(std::string((16 << 20) + 1, 'a')), ": has 16777217 bytes, at most 16777216 are read");
}

}  // namespace
}  // namespace inference::test
