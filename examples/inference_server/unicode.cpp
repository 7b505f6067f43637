// SPDX-License-Identifier: Apache-2.0
#include "unicode.h"

#include <utf8proc.h>

#include <stdexcept>
#include <vector>

namespace inference {
namespace {

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

bool is_dropped(char32_t c) {
  if (c == U'\t' || c == U'\n' || c == U'\r') return false;
  if (c == 0 || c == 0xFFFD) return true;
  switch (category(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CO:
      return true;  // unassigned code points (Cn) stay, as in the model's own tokenizer: they make their word
                    // [UNK]
    default:
      return false;
  }
}

bool is_ideograph(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
         (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B820 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

}  // namespace

std::u32string decode_utf8(std::string_view utf8) {
  std::u32string out;
  out.reserve(utf8.size());
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(utf8.data());
  auto left = static_cast<utf8proc_ssize_t>(utf8.size());
  while (left > 0) {
    utf8proc_int32_t c = 0;
    const utf8proc_ssize_t used = utf8proc_iterate(bytes, left, &c);
    if (used < 1) {
      throw std::invalid_argument("byte " + std::to_string(utf8.size() - static_cast<std::size_t>(left)) +
                                  " of the text is not UTF-8");
    }
    out.push_back(static_cast<char32_t>(c));
    bytes += used;
    left -= used;
  }
  return out;
}

void append_utf8(char32_t c, std::string& out) {
  utf8proc_uint8_t bytes[4];
  const utf8proc_ssize_t used = utf8proc_encode_char(static_cast<utf8proc_int32_t>(c), bytes);
  out.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(used));
}

bool is_whitespace(char32_t c) {
  if ((c >= 0x9 && c <= 0xD) || c == 0x85)
    return true;  // control characters by category, white space by property
  const utf8proc_category_t cat = category(c);
  return cat == UTF8PROC_CATEGORY_ZS || cat == UTF8PROC_CATEGORY_ZL || cat == UTF8PROC_CATEGORY_ZP;
}

bool is_punctuation(char32_t c) {
  if (c < 0x80) {
    return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
  }
  const utf8proc_category_t cat = category(c);
  return cat >= UTF8PROC_CATEGORY_PC && cat <= UTF8PROC_CATEGORY_PO;
}

std::u32string normalize_uncased(std::u32string_view text) {
  std::vector<utf8proc_int32_t> spaced;
  spaced.reserve(text.size() + 8);
  for (char32_t c : text) {
    if (is_dropped(c)) continue;
    if (is_whitespace(c)) {
      spaced.push_back(' ');
    } else if (is_ideograph(c)) {
      spaced.insert(spaced.end(), {' ', static_cast<utf8proc_int32_t>(c), ' '});
    } else {
      spaced.push_back(static_cast<utf8proc_int32_t>(c));
    }
  }
  std::u32string out;
  out.reserve(spaced.size());
  for (utf8proc_int32_t c : spaced) {
    // At most 4 code points: the longest canonical decomposition of one character. Combining marks are not
    // reordered, because those that could move (combining class above 0) are dropped here or occur in no
    // vocabulary entry.
    utf8proc_int32_t parts[8];
    int last_boundclass = 0;
    const utf8proc_ssize_t count = utf8proc_decompose_char(c, parts, 8, UTF8PROC_DECOMPOSE, &last_boundclass);
    for (utf8proc_ssize_t i = 0; i < count && i < 8; ++i) {
      if (category(static_cast<char32_t>(parts[i])) == UTF8PROC_CATEGORY_MN) continue;
      out.push_back(static_cast<char32_t>(utf8proc_tolower(parts[i])));
    }
  }
  return out;
}

}  // namespace inference
