// SPDX-License-Identifier: Apache-2.0
#include "tokenizer.h"

#include <algorithm>
#include <sstream>
#include <stdexcept>

#include "file_io.h"
#include "unicode.h"

namespace inference {
namespace {

// A longer "word" (base64, a URL's tail) becomes one [UNK], as in the model's tokenizer.
constexpr std::size_t kMaxWordChars = 100;

// The model's vocabulary has 226 KiB; those of 250,000 pieces have about 5 MiB.
constexpr std::uint64_t kMaxVocabBytes = std::uint64_t{16} << 20;

}  // namespace

Tokenizer::Tokenizer(const std::filesystem::path& vocab_txt) {
  std::istringstream file(read_file(vocab_txt, kMaxVocabBytes));
  std::string line;
  for (std::int32_t id = 0; std::getline(file, line); ++id) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    const std::string where = vocab_txt.string() + ":" + std::to_string(id + 1) + ": ";
    std::size_t chars = 0;
    try {
      chars = decode_utf8(line).size();
    } catch (const std::invalid_argument& error) {
      throw std::runtime_error(where + error.what());
    }
    max_piece_chars_ = std::max(max_piece_chars_, line.starts_with("##") ? chars - 2 : chars);
    if (!ids_.emplace(line, id).second) {
      throw std::runtime_error(where + "'" + line.substr(0, kMaxWordChars) + "' is named twice");
    }
  }
  for (const char* name : {"[UNK]", "[CLS]", "[SEP]"}) {
    if (id_of(name) < 0) throw std::runtime_error(vocab_txt.string() + ": has no " + name);
  }
  for (const char* name : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}) {
    if (id_of(name) >= 0) special_.emplace_back(name, id_of(name));
  }
  unknown_ = id_of("[UNK]");
  begin_ = id_of("[CLS]");
  end_ = id_of("[SEP]");
}

std::int32_t Tokenizer::id_of(std::string_view piece) const {
  const auto found = ids_.find(piece);
  return found == ids_.end() ? -1 : found->second;
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view utf8) const {
  std::vector<std::int32_t> ids{begin_};
  std::size_t plain = 0;  // where the text after the last special token begins
  for (std::size_t at = utf8.find('['); at != std::string_view::npos; at = utf8.find('[', at)) {
    std::size_t length = 1;
    for (const auto& [name, id] : special_) {
      if (!utf8.substr(at).starts_with(name)) continue;
      encode_text(utf8.substr(plain, at - plain), ids);
      ids.push_back(id);
      length = name.size();
      plain = at + length;
      break;
    }
    at += length;
  }
  encode_text(utf8.substr(plain), ids);
  ids.push_back(end_);
  return ids;
}

void Tokenizer::encode_text(std::string_view utf8, std::vector<std::int32_t>& ids) const {
  std::u32string word;
  const auto flush = [&] {
    if (!word.empty()) encode_word(word, ids);
    word.clear();
  };
  for (char32_t c : normalize_uncased(decode_utf8(utf8))) {
    if (is_whitespace(c)) {
      flush();
    } else if (is_punctuation(c)) {
      flush();
      encode_word(std::u32string(1, c), ids);
    } else {
      word.push_back(c);
    }
  }
  flush();
}

void Tokenizer::encode_word(const std::u32string& word, std::vector<std::int32_t>& ids) const {
  if (word.size() > kMaxWordChars) {
    ids.push_back(unknown_);
    return;
  }
  std::string utf8;
  std::vector<std::size_t> end_of;  // byte offset after each character
  for (char32_t c : word) {
    append_utf8(c, utf8);
    end_of.push_back(utf8.size());
  }
  const std::size_t first_id = ids.size();
  std::string piece;
  for (std::size_t from = 0; from < word.size();) {
    const std::size_t from_byte = from == 0 ? 0 : end_of[from - 1];
    std::size_t to = std::min(word.size(), from + max_piece_chars_);
    std::int32_t id = -1;
    for (; to > from; --to) {
      piece.assign(from == 0 ? "" : "##").append(utf8, from_byte, end_of[to - 1] - from_byte);
      if (id = id_of(piece); id >= 0) break;
    }
    if (id < 0) {  // one unknown part makes the whole word unknown
      ids.resize(first_id);
      ids.push_back(unknown_);
      return;
    }
    ids.push_back(id);
    from = to;
  }
}

}  // namespace inference
