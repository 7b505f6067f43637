// SPDX-License-Identifier: Apache-2.0
// BERT's uncased tokenizer: basic tokenizer (clean, split at spaces and punctuation) and WordPiece (greedy
// longest match). Devlin et al., "BERT", 2018; WordPiece: Schuster & Nakajima, 2012, Wu et al., 2016.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace inference {

class Tokenizer {
 public:
  /// `vocab_txt`: one word piece a line, whose line number is its id. Throws std::runtime_error if the file
  /// cannot be read, has more than 16 MiB, is not UTF-8, names a piece twice, or lacks [UNK], [CLS] or [SEP].
  explicit Tokenizer(const std::filesystem::path& vocab_txt);

  /// [CLS] pieces... [SEP]. Special tokens written out in the text ("[SEP]") become their ids, as in the
  /// model's own tokenizer. Not truncated. Throws std::invalid_argument when `utf8` is not UTF-8.
  std::vector<std::int32_t> encode(std::string_view utf8) const;

  std::size_t vocab_size() const { return ids_.size(); }

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };
  std::int32_t id_of(std::string_view piece) const;  // -1: not in the vocabulary
  void encode_text(std::string_view utf8, std::vector<std::int32_t>& ids) const;
  void encode_word(const std::u32string& word, std::vector<std::int32_t>& ids) const;

  std::unordered_map<std::string, std::int32_t, Hash, std::equal_to<>> ids_;
  std::vector<std::pair<std::string, std::int32_t>> special_;
  std::size_t max_piece_chars_ = 0;  // bounds the search for the longest match
  std::int32_t unknown_ = 0;
  std::int32_t begin_ = 0;
  std::int32_t end_ = 0;
};

}  // namespace inference
