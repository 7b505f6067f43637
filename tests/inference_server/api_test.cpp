// SPDX-License-Identifier: Apache-2.0
// Request bodies: which are accepted, which are refused and how, and that none takes much memory or any
// stack.
#include "api.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "support.h"
#include "tests/support/random.h"

namespace inference {
namespace {

using kumiko::test::kSanitized;  // takes a tenth of the work: bytes are looked at one by one, ten times as
                                 // slowly
using test::on_small_stack;
using test::peak_memory;

/// "422 sentence", or "taken".
std::string answer(const std::function<void()>& parse) {
  try {
    parse();
  } catch (const ApiError& error) {
    return std::to_string(error.status) + " " + error.what();
  }
  return "taken";
}
std::string texts_answer(std::string_view body, std::int64_t max_texts = 4) {
  return answer([&] { (void)parse_texts(body, max_texts); });
}
std::string search_answer_to(std::string_view body) {
  return answer([&] { (void)parse_search(body); });
}
std::string repeat(std::string_view part, std::size_t times) {
  std::string all;
  all.reserve(part.size() * times);
  for (std::size_t i = 0; i < times; ++i) all += part;
  return all;
}
std::string quoted(const std::string& text) {
  return "\"" + text + "\"";
}

TEST(ParseTexts, TakesTextsAsTheyAre) {
  EXPECT_EQ(
      parse_texts(" {\"texts\" : [\"a\", \"\", \"\\u00e4\\n\\ud83d\\ude00\", \"\xc3\xa4\\u0000\"]} ", 4),
      (std::vector<std::string>{"a", "", "\xc3\xa4\n\xf0\x9f\x98\x80", std::string("\xc3\xa4\0", 3)}));
}

TEST(ParseTexts, FaultsAreSaid) {
  const struct {
    std::string body, answer;
  } cases[] = {
      {"[]", "422 the body must be a JSON object, is an array"},
      {"[[[[1]]]]", "422 the body must be a JSON object, is an array"},
      {"\"text\"", "422 the body must be a JSON object, is \"text\""},
      {"null", "422 the body must be a JSON object, is null"},
      {"-7", "422 the body must be a JSON object, is -7"},
      {"1.25e3", "422 the body must be a JSON object, is 1.25e3"},
      {"{}", "422 'texts' is missing, expected an array of strings"},
      {"{\"texts\":[]}", "422 'texts' is empty, expected at least one string"},
      {"{\"texts\":{\"a\":[]}}", "422 'texts' must be an array of strings, is an object"},
      {"{\"texts\":true}", "422 'texts' must be an array of strings, is true"},
      {"{\"texts\":[\"a\",[\"b\",{}]]}", "422 'texts[1]' must be a string, is an array"},
      {"{\"texts\":[{\"texts\":[]},7]}", "422 'texts[0]' must be a string, is an object"},
      {"{\"text\":[\"a\"]}", "422 field \"text\" is not known, expected 'texts'"},
      {"{\"\":1}", "422 field \"\" is not known, expected 'texts'"},
      {"{\"texts\":[\"a\"],\"texts\":[\"b\"]}", "422 field \"texts\" is given twice"},
      {"{\"texts\":[\"a\"],\"\\u0074exts\":[\"b\"]}", "422 field \"texts\" is given twice"},
      {"{\"texts\":[\"a\",\"b\",\"c\",\"d\",\"e\"]}",
       "413 'texts' has more than 4 texts, the most that one request may have"},
      // A syntax error is reported first.
      {"{\"texts\":7,\"x\":[}", "400 the body is not JSON: "},
      {"[\"a\"] x", "400 the body is not JSON: "},
      {"{\"texts\":[1e999]}", "400 the body is not JSON: number overflow"},
      {"{\"texts\":[\"\xff\"]}", "400 the body is not JSON: "},
      {"", "400 the body is not JSON: "},
      {std::string("\0", 1), "400 the body is not JSON: "},
  };
  for (const auto& test : cases) {
    EXPECT_EQ(texts_answer(test.body).substr(0, test.answer.size()), test.answer) << test.body;
  }
}

TEST(ParseTexts, ValuesAreQuotedUpTo40Bytes) {
  const std::string long_text(4'000'000, 'x');
  const std::string forty = "\"" + std::string(39, 'x') + "...";
  EXPECT_EQ(texts_answer("{\"texts\":" + quoted(long_text) + "}"),
            "422 'texts' must be an array of strings, is " + forty);
  EXPECT_EQ(texts_answer("{" + quoted(long_text) + ":1}"),
            "422 field " + forty + " is not known, expected 'texts'");
  EXPECT_EQ(texts_answer("1." + std::string(1'000'000, '0')),
            "422 the body must be a JSON object, is 1." + std::string(38, '0') + "...");
  EXPECT_LT(texts_answer("{\"texts\":[\"" + long_text).size(),
            300u);  // a syntax error quotes the end of what was read
  // Cut inside a character, the quotation is still ASCII.
  for (int lead = 0; lead < 8; ++lead) {
    const std::string shown = texts_answer(quoted(std::string(lead, 'x') + repeat("\xf0\x9f\x98\x80", 20)));
    EXPECT_EQ(shown.find_first_not_of("\"\\.,"
                                      " abcdefghijklmnopqrstuvwxyzJSONO0123456789"),
              std::string::npos)
        << shown;
  }
}

TEST(ParseTexts, ATextThatIsTooLongIsNamed) {
  const std::string most(static_cast<std::size_t>(kMaxTextBytes), 'x');
  EXPECT_EQ(parse_texts("{\"texts\":[" + quoted(most) + "]}", 1).at(0), most);
  EXPECT_EQ(texts_answer("{\"texts\":[\"a\",\"b\",\"c\"," + quoted(most + "x") + "]}"),
            "413 'texts[3]' has 16385 bytes, at most 16384 are taken");
  EXPECT_EQ(search_answer_to("{\"query\":" + quoted(most + "x") + "}"),
            "413 'query' has 16385 bytes, at most 16384 are taken");
  EXPECT_EQ(parse_search("{\"query\":" + quoted(most) + "}").query, most);
}

TEST(ParseTexts, StopsAtTheFirstTextTooMany) {
  // The rest, which is not JSON, is not read.
  EXPECT_EQ(texts_answer("{\"texts\":[\"a\",\"b\",\"c\",\"d\",\"e\",,,"),
            "413 'texts' has more than 4 texts, the most that one request may have");
}

TEST(ParseSearch, TakesQueryAndTopK) {
  EXPECT_EQ(parse_search("{\"query\":\"a\"}").top_k, 5);
  for (const std::int64_t top_k : {1, 100}) {
    const SearchRequest request = parse_search("{\"top_k\":" + std::to_string(top_k) + ",\"query\":\"a\"}");
    EXPECT_EQ(request.top_k, top_k);
    EXPECT_EQ(request.query, "a");
  }
}

TEST(ParseSearch, FaultsAreSaid) {
  EXPECT_EQ(search_answer_to("{\"top_k\":3}"), "422 'query' is missing, expected a string");
  EXPECT_EQ(search_answer_to("{\"query\":[\"a\"]}"), "422 'query' must be a string, is an array");
  EXPECT_EQ(search_answer_to("{\"query\":\"a\",\"topk\":3}"),
            "422 field \"topk\" is not known, expected 'query', 'top_k'");
  EXPECT_EQ(search_answer_to("{\"query\":\"a\",\"query\":\"a\"}"), "422 field \"query\" is given twice");
  EXPECT_EQ(search_answer_to("{\"query\":\"a\",\"top_k\":3,\"top_k\":4}"),
            "422 field \"top_k\" is given twice");
  for (const std::string top_k : {"0", "-0", "-1", "101", "1.0", "1.5", "9223372036854775808",
                                  "18446744073709551616", "-9223372036854775808", "null", "true", "\"3\""}) {
    EXPECT_EQ(search_answer_to("{\"query\":\"a\",\"top_k\":" + top_k + "}"),
              "422 'top_k' must be an integer in 1..100, is " + (top_k == "-0" ? "0" : top_k));
  }
  EXPECT_EQ(search_answer_to("{\"query\":\"a\",\"top_k\":[[1]]}"),
            "422 'top_k' must be an integer in 1..100, is an array");
}

// Where nesting can begin, and what must follow it.
const std::vector<std::pair<std::string, std::string>> kPlaces = {
    {"", ""},         {"{\"texts\":", "}"}, {"{\"texts\":[", "]}"},
    {"{\"x\":", "}"}, {"{\"query\":", "}"}, {"{\"query\":\"a\",\"top_k\":", "}"},
};

TEST(Depth, EightLevelsAreReadAndNoMore) {
  for (const auto& [before, after] : kPlaces) {
    const std::size_t levels = before.empty() ? 0 : 1 + (before.back() == '[');
    const std::size_t room = 8 - levels;
    const std::string most = before + repeat("[", room) + repeat("]", room) + after;
    const std::string deeper = before + repeat("[", room + 1) + repeat("]", room + 1) + after;
    for (const auto& parse : {+[](std::string_view body) { return texts_answer(body); },
                              +[](std::string_view body) { return search_answer_to(body); }}) {
      EXPECT_EQ(parse(most).substr(0, 4), "422 ") << most;
      EXPECT_EQ(parse(deeper), "400 the body is not JSON of at most 8 nested levels") << deeper;
    }
  }
}

TEST(Depth, AnyNumberOfLevelsTakesNeitherStackNorMemory) {
  for (const std::size_t depth : {std::size_t{75'000}, std::size_t{kSanitized ? 400'000 : 4'000'000}}) {
    for (const auto& [before, after] : kPlaces) {
      for (const auto& [open, close] : {std::pair{"[", "]"}, {"{\"a\":", "}"}}) {
        for (const std::string& tail : {std::string(), repeat(close, depth) + after}) {
          const std::string body = before + repeat(open, depth) + (tail.empty() ? "" : "1") + tail;
          std::string texts, search;
          on_small_stack([&] {
            EXPECT_LT(peak_memory([&] {
                        texts = texts_answer(body);
                        search = search_answer_to(body);
                      }),
                      100'000u);
          });
          EXPECT_EQ(texts, "400 the body is not JSON of at most 8 nested levels");
          EXPECT_EQ(search, "400 the body is not JSON of at most 8 nested levels");
        }
      }
    }
  }
}

TEST(Memory, ALargeBodyTakesASmallMultipleOfIt) {
  constexpr std::size_t kBody = kSanitized ? 512 << 10 : 4 << 20;
  const std::string bodies[] = {
      "{\"texts\":[\"" + std::string(kBody, 'x') + "\"]}",
      "{\"texts\":[\"" + std::string(kBody, 'x'),
      "{\"" + std::string(kBody, 'x') + "\":1}",
      "{\"texts\":[" + repeat("\"\",", kBody / 3) + "\"\"]}",
      "{\"texts\":[" + repeat("[],", kBody / 3) + "[]]}",
      "{\"texts\":[" + repeat("1,", kBody / 2) + "1]}",
      "{\"texts\":[\"a\"]" + repeat(",\"a\":1", kBody / 6) + "}",
      "{\"texts\":[\"a\"]" + repeat(",\"texts\":[\"a\"]", kBody / 14) + "}",
      "{\"texts\":[" + repeat("\"" + std::string(65'000, 'x') + "\",", kBody / 65'003) + "\"\"]}",
      "[" + std::string(kBody, ' ') + "]",
      "[" + std::string(kBody, '1') + "]",
      "{\"texts\":[\"" + repeat("\\u0001", kBody / 6) + "\x01\"]}",
  };
  for (const std::string& body : bodies) {
    for (const std::int64_t max_texts : {256, 1'000'000}) {
      const std::size_t peak = peak_memory([&] {
        (void)texts_answer(body, max_texts);
        (void)search_answer_to(body);
      });
      // A text takes at least the 32 bytes of std::string, and vectors double. The parser's own message about
      // a long token takes the most, 11 times the body.
      const std::size_t texts = max_texts > 256 ? std::size_t{3} * 1'000'000 * sizeof(std::string) : 0;
      EXPECT_LT(peak, 12 * kBody + texts) << body.substr(0, 40);
    }
  }
}

TEST(Memory, AnAnswerIsInMemoryOnce) {
  constexpr std::size_t kTexts = 100, kWidth = 384;
  std::vector<float> vectors(kTexts * kWidth);
  for (std::size_t i = 0; i < vectors.size(); ++i) vectors[i] = static_cast<float>(i % 997) * -1.234567e-4f;
  const std::vector<std::int64_t> tokens(kTexts, 128);
  std::size_t size = 0;
  const std::size_t peak = peak_memory([&] { size = embed_answer(vectors, kWidth, tokens).size(); });
  EXPECT_GT(size, 10 * vectors.size());
  EXPECT_LT(peak, 16 * vectors.size());  // what the server reserves for it
}

TEST(Fuzz, AnyBytesAreTakenOrRefusedWithAStatus) {
  std::mt19937 random(3);
  const std::vector<std::string> parts = {"{",     "}",  "[",    "]",     ",",         ":",    "\"texts\"",
                                          "\"a\"", "1",  "-1.5", "null",  "\"top_k\"", "\xff", "\"query\"",
                                          "\\",    "\"", " ",    "1e999", "\xc3\xa4",  "true", "\"\\ud800\""};
  int taken = 0;
  constexpr int kRounds = kSanitized ? 30'000 : 100'000;
  for (int round = 0; round < kRounds; ++round) {
    std::string body = random() % 2 ? "{\"texts\":[" : "{\"query\":";
    for (auto n = random() % 8; n > 0; --n) body += parts[random() % parts.size()];
    if (random() % 2) body += body[2] == 't' ? "]}" : "}";
    for (const std::string& said : {texts_answer(body), search_answer_to(body)}) {
      taken += said == "taken";
      EXPECT_TRUE(said == "taken" || said.starts_with("400 the body is not JSON") ||
                  said.starts_with("413 ") || said.starts_with("422 "))
          << body << " gave " << said;
    }
  }
  EXPECT_GT(taken, kRounds / 100);
}

}  // namespace
}  // namespace inference
