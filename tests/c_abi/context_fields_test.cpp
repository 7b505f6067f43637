// SPDX-License-Identifier: Apache-2.0
// Every option of a context and the arguments of allocate, through both interfaces.
#include <cstdio>
#include <fstream>

#include "tests/c_abi/fields.h"

namespace kumiko::test {
namespace {

using OptionFields = Fields<ContextOptions, kumiko_context_options>;

// With a new field the binding below does not compile: give the field a row in the table, then its name here.
#define C_OPTIONS \
  struct_size, num_threads, reserved, cpus, bind, executor, isa, topology, policy, trace, tuning
#define CPP_OPTIONS num_threads, cpus, bind, executor, isa, topology, policy, trace, tuning
#define NAMES_OF(...) #__VA_ARGS__
#define NAMES(fields) NAMES_OF(fields)

[[maybe_unused]] void each_struct_has_these_fields() {
  { [[maybe_unused]] const auto& [C_OPTIONS] = kumiko_context_options{}; }
  { [[maybe_unused]] const auto& [CPP_OPTIONS] = ContextOptions{}; }
}

const OptionFields& option_table() {
  static const OptionFields fields = [] {
    OptionFields f;
    const auto machine = [](auto& o) { o.topology = "numa:2 core:3 pu:1"; };
    f.add(
        "num_threads", [](auto& o) { o.num_threads = 2; }, machine);
    f.add_refused("cpus", [](auto& o) { o.cpus = "4000"; });  // one CPU: no other list is valid
    f.add(
        "bind", [](auto& o) { o.bind = "spread"; }, machine);
    f.add("executor", [](auto& o) { o.executor = "tbb"; });
    f.add("isa", [](auto& o) { o.isa = "reference"; });
    f.add("topology", machine);
    f.add("policy", [](auto& o) { o.policy = "flat"; });
    f.add_refused("trace", [](auto& o) { o.trace = "/nowhere/trace.json"; });
    f.add_refused("tuning", [](auto& o) { o.tuning = "/nowhere/core.tuning"; });
    f.add_c(
        "reserved", [](auto& o) { o.reserved = 1; }, machine);
    f.add_c(
        "struct_size", [](auto& o) { o.struct_size = offsetof(kumiko_context_options, cpus); }, machine);
    return f;
  }();
  return fields;
}

Seen see_cpp(const ContextOptions& options) {
  Context context;
  Seen seen = seen_of(Context::create(options, &context));
  seen.text = context ? context.describe() + std::to_string(context.num_threads()) : "";
  return seen;
}
Seen see_c(const kumiko_context_options& options) {
  kumiko_context* context = nullptr;
  Seen seen = seen_of(kumiko_context_create(&options, &context));
  if (!context) return seen;
  const char* text = nullptr;
  std::int32_t threads = 0;
  EXPECT_EQ(kumiko_context_describe(context, &text), KUMIKO_OK);
  EXPECT_EQ(kumiko_context_num_threads(context, &threads), KUMIKO_OK);
  seen.text = text + std::to_string(threads);
  kumiko_context_destroy(context);
  return seen;
}

TEST(ContextFields, EachHasARow) {
  expect_a_row_for_each(NAMES(C_OPTIONS), option_table());
  expect_a_row_for_each(NAMES(CPP_OPTIONS), option_table());
}

TEST(ContextFields, EachCountsInC) {
  expect_each_field_counts(option_table(), ContextOptions{},
                           kumiko_context_options KUMIKO_CONTEXT_OPTIONS_INIT, see_cpp, see_c);
}

TEST(ContextFields, AllTogetherGiveTheSameContext) {
  expect_all_fields_together(option_table(), ContextOptions{},
                             kumiko_context_options KUMIKO_CONTEXT_OPTIONS_INIT, see_cpp, see_c);
}

TEST(ContextFields, WriteTraceReplacesTheFile) {
  const std::string file = testing::TempDir() + "kumiko_c_trace.json";
  kumiko_context_options options = KUMIKO_CONTEXT_OPTIONS_INIT;
  options.executor = "serial";
  options.trace = file.c_str();
  kumiko_context* context = nullptr;
  ASSERT_EQ(kumiko_context_create(&options, &context), KUMIKO_OK) << kumiko_last_error();
  ASSERT_EQ(std::remove(file.c_str()), 0);
  EXPECT_EQ(kumiko_context_write_trace(context), KUMIKO_OK) << kumiko_last_error();
  std::string line;
  EXPECT_TRUE(std::getline(std::ifstream(file), line));
  EXPECT_NE(line.find("displayTimeUnit"), std::string::npos) << line;
  kumiko_context_destroy(context);
  std::remove(file.c_str());
}

TEST(ContextFields, AllocateTakesItsDomainAndItsSize) {
  ContextOptions options;
  options.executor = "serial";
  options.topology = "numa:3 core:1 pu:1";
  Context cpp;
  ASSERT_TRUE(Context::create(options, &cpp).ok());
  kumiko_context_options c_options = KUMIKO_CONTEXT_OPTIONS_INIT;
  c_options.executor = "serial";
  c_options.topology = "numa:3 core:1 pu:1";
  kumiko_context* c = nullptr;
  ASSERT_EQ(kumiko_context_create(&c_options, &c), KUMIKO_OK);
  std::int32_t domains = 0;
  ASSERT_EQ(kumiko_context_num_domains(c, &domains), KUMIKO_OK);
  EXPECT_EQ(domains, cpp.num_domains());
  const struct {
    std::int32_t domain;
    std::int64_t bytes;
  } rows[] = {{-1, 64}, {3, 64}, {0, 0}, {0, -5}, {2, std::int64_t{1} << 62}, {2, 5000}};
  for (const auto& row : rows) {
    DomainMemory cpp_memory;
    void* c_memory = nullptr;
    const Seen want = seen_of(cpp.allocate(row.domain, row.bytes, &cpp_memory));
    EXPECT_EQ(seen_of(kumiko_context_allocate(c, row.domain, row.bytes, &c_memory)), want);
    EXPECT_EQ(c_memory != nullptr, cpp_memory.data() != nullptr) << row.domain << " " << row.bytes;
    kumiko_free(c_memory, row.bytes);
  }
  kumiko_context_destroy(c);
}

}  // namespace
}  // namespace kumiko::test
