// SPDX-License-Identifier: Apache-2.0
#include "tests/runtime/products_cases.h"

#include <gtest/gtest.h>

#include <regex>

#include "tests/runtime/shapes.h"
#include "tests/support/random.h"

namespace kumiko::test {

std::vector<Case> products_cases() {
  std::vector<Case> list;
  Random random(test_seed(4711));
  const struct {
    std::int64_t batch, q_heads, kv_heads, q_len, kv_len, head_dim, v_dim;
  } rows[] = {{1, 1, 1, 1, 1, 1, 1},      {1, 1, 1, 12, 256, 7, 64},  {2, 4, 2, 5, 17, 24, 17},
              {1, 2, 2, 50, 300, 13, 33}, {1, 6, 3, 49, 513, 16, 40}, {2, 2, 1, 97, 130, 64, 128},
              {1, 1, 1, 200, 1100, 8, 9}, {1, 3, 1, 7, 1537, 40, 65}, {3, 2, 2, 16, 0, 8, 8},
              {1, 8, 8, 1, 600, 20, 20},  {1, 1, 1, 130, 2600, 5, 6}};
  constexpr Layout kIn[] = {Layout::bhsd, Layout::padded, Layout::bshd, Layout::padded_bshd};
  for (int kind = 0; kind < kMaskKinds; ++kind) {
    for (std::size_t i = 0; i < std::size(rows); ++i) {
      if ((i + static_cast<std::size_t>(kind)) % 3 != 0) continue;
      const auto& r = rows[i];
      Case c;
      c.seed = static_cast<std::uint64_t>(random.between(1, 1 << 30));
      c.batch = r.batch, c.q_heads = r.q_heads, c.kv_heads = r.kv_heads, c.q_len = r.q_len,
      c.kv_len = r.kv_len;
      c.head_dim = r.head_dim, c.v_head_dim = r.v_dim;
      c.q_layout = kIn[list.size() % 4], c.v_layout = kIn[list.size() / 4 % 4];
      c.k_layout = kIn[list.size() / 2 % 4], c.out_layout = kIn[list.size() / 3 % 4];
      if (list.size() % 2 == 1) c.lse = GuardedLse::Layout::padded;
      list.push_back(masked(c, kind));
    }
  }
  list = thin(list, thinned<std::size_t>(1, 1, 7), 1'500'000);
  // Dims of models up to the largest.
  const struct {
    std::int64_t q_heads, kv_heads, q_len, kv_len, head_dim, v_dim;
  } wide[] = {
      {2, 1, 5, 70, 576, 512}, {4, 4, 50, 90, 256, 128}, {1, 1, 33, 60, 112, 576}, {3, 3, 1, 90, 512, 72}};
  for (const auto& r : wide) {
    Case c;
    c.seed = static_cast<std::uint64_t>(r.head_dim);
    c.q_heads = r.q_heads, c.kv_heads = r.kv_heads, c.q_len = r.q_len, c.kv_len = r.kv_len;
    c.head_dim = r.head_dim, c.v_head_dim = r.v_dim, c.is_causal = true;
    list.push_back(c);
  }
  return list;
}

void expect_error(const Status& status, Code code, const std::string& argument, const std::string& value) {
  SCOPED_TRACE(status.message());
  EXPECT_EQ(status.code(), code);
  EXPECT_TRUE(std::regex_search(status.message(), std::regex("\\b" + argument + "\\b"))) << argument;
  EXPECT_NE(status.message().find(value), std::string::npos) << value;
  EXPECT_NE(status.message().find("expected"), std::string::npos);
}

Case faulty() {
  Case c;
  c.batch = 2, c.q_heads = 4, c.kv_heads = 2, c.q_len = 3, c.kv_len = 5, c.head_dim = 8, c.v_head_dim = 6;
  return c;
}

}  // namespace kumiko::test
