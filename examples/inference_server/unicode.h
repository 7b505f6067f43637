// SPDX-License-Identifier: Apache-2.0
// Character classes and normalisation as BERT's basic tokenizer defines them, on top of utf8proc.
#pragma once

#include <string>
#include <string_view>

namespace inference {

/// Code points of `utf8`. Throws std::invalid_argument at the first byte that is not UTF-8 (surrogates
/// included).
std::u32string decode_utf8(std::string_view utf8);

/// Appends `c` as UTF-8.
void append_utf8(char32_t c, std::string& out);

/// Unicode White_Space.
bool is_whitespace(char32_t c);

/// Unicode P* categories and all ASCII signs that are neither letter, digit nor space ("$", "+", "~" are S*
/// in Unicode).
bool is_punctuation(char32_t c);

/// BERT's normalisation of uncased text, in its order: control characters are dropped and white space becomes
/// ' ', ideographs get spaces around them, NFD without nonspacing marks (accents), lower case.
std::u32string normalize_uncased(std::u32string_view text);

}  // namespace inference
