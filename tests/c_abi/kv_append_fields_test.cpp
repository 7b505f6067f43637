// SPDX-License-Identifier: Apache-2.0
// Every field of kv_append's arguments, through both interfaces.
#include <kumiko/kv_append_c.h>

#include "runtime/kv_append.h"
#include "tests/c_abi/fields.h"

namespace kumiko::test {
namespace {

constexpr std::int64_t kSlots[6] = {7, 0, 3, -1, 5, 2}, kOtherSlots[6] = {1, 4, 6, 0, -1, 3},
                       kPositions[6] = {0, 3, 1, 4, 2, 5}, kOtherPositions[6] = {5, 4, 3, 2, 1, 0};

constexpr std::int32_t kNoSuchDomain[2] = {1000, 1000};

// Two sequences of 3 tokens into pages of 4 rows, gaps after every row, head and sequence. The query's output
// lies behind the value cache, in the memory that other calls have for the log-sum-exp.
template <class Args>
void place_append(Args& a) {
  place(a.key, memory().k, {2, 2, 3, 8}, {150, 60, 10, 1});
  place(a.value, memory().v, {2, 2, 3, 6}, {120, 50, 8, 1});
  place(a.key_cache, memory().out, {2, 2, 4, 8}, {160, 70, 10, 1});
  place(a.value_cache, memory().lse, {2, 2, 4, 6}, {140, 60, 8, 1});
  a.slot_mapping = kSlots;
}
template <class Args>
void place_query(Args& a) {
  place(a.query, memory().q, {2, 3, 3, 8}, {200, 50, 10, 1});
  place(a.query_out, memory().lse, {2, 3, 3, 8}, {200, 50, 10, 1});
  a.query_out.data = static_cast<float*>(memory().lse.data()) + 512;
}
template <class Args>
void place_rotation(Args& a) {
  place_query(a);
  a.rotary_dim = 4;
  a.positions = kPositions;
}
const float* table(int n) {
  return static_cast<const float*>((n == 0 ? memory().bias : memory().parts[0]).data());
}
template <class Args>
void place_tables(Args& a) {
  place_rotation(a);
  a.rope_cos = table(0), a.rope_sin = table(1);
  a.rope_positions = 9;
}

using KvAppendFields = Fields<KvAppendArgs, kumiko_kv_append_args>;
KvAppendFields append_fields() {
  KvAppendFields f;
  const auto none = [](auto&) {};
  const auto query = [](auto& a) { place_query(a); };
  const auto rotation = [](auto& a) { place_rotation(a); };
  const auto tables = [](auto& a) { place_tables(a); };
  f.add_tensor(
      "key", KUMIKO_BF16, false, [](auto& a) -> auto& { return a.key; }, none);
  f.add_tensor(
      "value", KUMIKO_F16, false, [](auto& a) -> auto& { return a.value; }, none);
  f.add_tensor(
      "key_cache", KUMIKO_BF16, false, [](auto& a) -> auto& { return a.key_cache; }, none);
  f.add_tensor(
      "value_cache", KUMIKO_F16, false, [](auto& a) -> auto& { return a.value_cache; }, none);
  f.add_tensor(
      "query", KUMIKO_F16, false, [](auto& a) -> auto& { return a.query; }, query);
  f.add_tensor(
      "query_out", KUMIKO_BF16, false, [](auto& a) -> auto& { return a.query_out; }, query);
  f.add("slot_mapping", [](auto& a) { a.slot_mapping = kOtherSlots; });
  f.add("key_norm", [](auto& a) { a.key_norm = table(0); });
  f.add(
      "query_norm", [](auto& a) { a.query_norm = table(0); }, query);
  f.add(
      "norm_eps", [](auto& a) { a.norm_eps = 0.5f; }, [](auto& a) { a.key_norm = table(0); });
  f.add(
      "rope_style", [](auto& a) { set(a.rope_style, KUMIKO_ROPE_INTERLEAVED); }, rotation);
  f.add(
      "rotary_dim", [](auto& a) { a.rotary_dim = 6; }, rotation);
  f.add(
      "positions", [](auto& a) { a.positions = kOtherPositions; }, rotation);
  f.add(
      "rope_cos", [](auto& a) { ++a.rope_cos; }, tables);
  f.add(
      "rope_sin", [](auto& a) { ++a.rope_sin; }, tables);
  f.add(
      "rope_positions", [](auto& a) { a.rope_positions = 3; }, tables, true);
  f.add(
      "rope_stride", [](auto& a) { a.rope_stride = 11; }, tables);
  f.add(
      "rope_theta", [](auto& a) { a.rope_theta = 100.0; }, rotation);
  f.add(
      "rope_scale", [](auto& a) { a.rope_scale = 0.5; }, rotation);
  f.add_refused("key_layout", [](auto& a) { set(a.key_layout, KUMIKO_KEY_TILES_OF_16); });
  f.add_refused("page_domains", [](auto& a) { a.page_domains = kNoSuchDomain; });
  f.add_c(
      "struct_size", [](auto& a) { a.struct_size = offsetof(kumiko_kv_append_args, query); },
      [](auto& a) { a.key_norm = table(0); });
  return f;
}

struct KvAppendFieldsTest : BothContexts {};

TEST_F(KvAppendFieldsTest, EachCountsAndAllTogether) {
  const KvAppendFields fields = append_fields();
  KvAppendArgs cpp;
  kumiko_kv_append_args c = KUMIKO_KV_APPEND_ARGS_INIT;
  place_append(cpp), place_append(c);
  const auto see_cpp = [&](const KvAppendArgs& a) {
    clear_outputs();
    return seen_of(kv_append(cpp_context, a));
  };
  const auto see_c = [&](const kumiko_kv_append_args& a) {
    clear_outputs();
    return seen_of(kumiko_kv_append(c_context, &a));
  };
  std::string names = "struct_size";
#define KUMIKO_KV_APPEND_FIELD(name) names += ", " #name;
#include "runtime/kv_append_fields.inc"
#undef KUMIKO_KV_APPEND_FIELD
  expect_a_row_for_each(names, fields);
  expect_each_field_counts(fields, cpp, c, see_cpp, see_c);
  expect_all_fields_together(fields, cpp, c, see_cpp, see_c);
}

TEST_F(KvAppendFieldsTest, NullsAndNumbersThatNoEnumeratorHas) {
  kumiko_kv_append_args c = KUMIKO_KV_APPEND_ARGS_INIT;
  place_append(c);
  EXPECT_EQ(kumiko_kv_append(nullptr, &c), KUMIKO_INVALID_ARGUMENT);
  EXPECT_STREQ(kumiko_last_error(), "context is NULL; expected a kumiko_context");
  EXPECT_EQ(kumiko_kv_append(c_context, nullptr), KUMIKO_INVALID_ARGUMENT);
  EXPECT_STREQ(kumiko_last_error(), "args is NULL; expected a kumiko_kv_append_args");
  for (const std::int32_t style : {-1, 2}) {
    c.rope_style = style;
    EXPECT_EQ(kumiko_kv_append(c_context, &c), KUMIKO_INVALID_ARGUMENT);
    EXPECT_EQ(std::string(kumiko_last_error()),
              "rope_style is " + std::to_string(style) +
                  "; expected KUMIKO_ROPE_NEOX (0) or KUMIKO_ROPE_INTERLEAVED (1)");
  }
}

}  // namespace
}  // namespace kumiko::test
