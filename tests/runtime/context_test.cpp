// SPDX-License-Identifier: Apache-2.0
// The options of a Context, and what it reports of itself.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>

#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"

namespace kumiko::test {
namespace {

void expect_error(const ContextOptions& options, Code code, const std::string& name,
                  const std::string& value) {
  const Context before = context_of(ContextOptions{});
  Context context = before;
  const Status status = Context::create(options, &context);
  EXPECT_EQ(status.code(), code) << status.message();
  EXPECT_NE(status.message().find(name), std::string::npos) << status.message() << " does not name " << name;
  EXPECT_NE(status.message().find(value), std::string::npos)
      << status.message() << " does not give " << value;
  EXPECT_NE(status.message().find("expected"), std::string::npos) << status.message();
  EXPECT_TRUE(context == before) << "*context must be untouched on error";
}

TEST(Context, DefaultsAreTheFastestIsaAndAtMostTheAllowedCpus) {
  const Context context = context_of(ContextOptions{});
  EXPECT_TRUE(context);
  EXPECT_EQ(context.isa(), default_isa());
  EXPECT_GE(context.num_threads(), 1);
  EXPECT_LE(context.num_threads(), allowed_cpus());
}

TEST(Context, EveryIsaOfTheHostCanBeForced) {
  for (const std::string& isa : host_isas()) EXPECT_EQ(context_of(isa, "serial").isa(), isa);
}

TEST(Context, OptionsThatDoNotParseAreErrors) {
  const auto with = [](auto set) {
    ContextOptions options;
    set(options);
    return options;
  };
  expect_error(with([](auto& o) { o.num_threads = -1; }), Code::invalid_argument, "num_threads", "-1");
  expect_error(with([](auto& o) { o.num_threads = 100000; }), Code::invalid_argument, "num_threads",
               "100000");
  expect_error(with([](auto& o) { o.isa = "mmx"; }), Code::invalid_argument, "isa", "mmx");
  expect_error(with([](auto& o) { o.executor = "fibers"; }), Code::invalid_argument, "executor", "fibers");
  expect_error(with([](auto& o) { o.bind = "tight"; }), Code::invalid_argument, "bind", "tight");
  expect_error(with([](auto& o) { o.policy = "lucky"; }), Code::invalid_argument, "policy", "lucky");
  expect_error(with([](auto& o) { o.cpus = "0-"; }), Code::invalid_argument, "cpus", "0-");
  expect_error(with([](auto& o) { o.topology = "rubbish"; }), Code::invalid_argument, "topology", "rubbish");
}

TEST(Context, ErrorsAreOneLineWhateverTheValue) {
  for (std::string ContextOptions::*const option :
       {&ContextOptions::executor, &ContextOptions::cpus, &ContextOptions::topology}) {
    ContextOptions options;
    options.*option = "0\nkumiko: all is well\x1b[2J\x7f";
    Context context;
    const Status status = Context::create(options, &context);
    EXPECT_EQ(status.code(), Code::invalid_argument);
    EXPECT_NE(status.message().find("all is well"), std::string::npos) << status.message();
    for (const char c : status.message())
      EXPECT_FALSE(static_cast<unsigned char>(c) < ' ' || c == '\x7f') << status.message();
  }
}

TEST(Context, ErrorsListTheChoices) {
  ContextOptions options;
  options.executor = "fibers";
  Context context;
  const std::string message = Context::create(options, &context).message();
  for (const std::string& executor : kAllExecutors)
    EXPECT_NE(message.find(executor), std::string::npos) << message;
}

TEST(Context, MoreThreadsThanTheTopologyHasCoresAreRefused) {
  ContextOptions options;
  options.topology = flat_machine(4);
  options.num_threads = 5;
  expect_error(options, Code::invalid_argument, "num_threads", "5");
  options.num_threads = 4;
  EXPECT_EQ(context_of(options).num_threads(), 4);
}

TEST(Context, DescribesWhatItUses) {
  ContextOptions options;
  options.isa = "reference";
  options.executor = "tbb";
  options.policy = "flat";
  options.bind = "spread";
  options.topology = "pack:1 l3:2 core:3 pu:1";
  options.num_threads = 5;
  const std::string text = context_of(options).describe();
  for (const char* fact : {"isa reference\n", "executor tbb", "policy flat", "bind spread", "threads 5",
                           "domain 0", "domain 1", "pack:1 l3:2 core:3 pu:1"})
    EXPECT_NE(text.find(fact), std::string::npos) << "no \"" << fact << "\" in:\n" << text;
}

TEST(Context, AnEmptyOneAnswersEveryQuestion) {
  const Context empty;
  EXPECT_FALSE(empty);
  EXPECT_EQ(empty.num_threads(), 0);
  EXPECT_EQ(empty.num_domains(), 0);
  EXPECT_EQ(empty.isa(), "");
  EXPECT_NE(empty.describe(), "");
}

TEST(Context, AllocatesMemoryOfADomain) {
  ContextOptions options;
  options.topology = "numa:3 core:2 pu:1";
  const Context context = context_of(options);
  ASSERT_EQ(context.num_domains(), 3);
  for (const std::int64_t bytes : {1, 4096, 100001, 5 << 20}) {
    DomainMemory memory;
    ASSERT_TRUE(context.allocate(2, bytes, &memory).ok());
    EXPECT_EQ(memory.domain(), 2);
    EXPECT_EQ(memory.size(), bytes);
    EXPECT_FALSE(memory.is_placed()) << "a machine that is only planned for has no node to place anything on";
    auto* const data = static_cast<unsigned char*>(memory.data());
    ASSERT_NE(data, nullptr);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(data) % 4096, 0u);
    EXPECT_TRUE(std::all_of(data, data + bytes, [](unsigned char c) { return c == 0; }));
    std::fill_n(data, bytes, static_cast<unsigned char>(1));
    DomainMemory moved = std::move(memory);
    EXPECT_EQ(moved.data(), data);
    EXPECT_EQ(memory.data(), nullptr);  // NOLINT: tests the state after the move.
    void* const raw = moved.release();
    EXPECT_EQ(raw, data);
    EXPECT_EQ(moved.size(), 0);
    DomainMemory::free(raw, bytes);
  }
}

TEST(Context, AllocatesMemoryInEqualPartsOnEachDomain) {
  ContextOptions options;
  options.topology = "numa:3 core:2 pu:1";
  const Context context = context_of(options);
  for (const std::int64_t bytes : {3 << 12, 6 << 20, 6 << 21}) {
    DomainMemory memory;
    ASSERT_TRUE(context.allocate(kEachDomain, bytes, &memory).ok());
    EXPECT_EQ(memory.domain(), kEachDomain);
    EXPECT_EQ(memory.size(), bytes);
    auto* const data = static_cast<unsigned char*>(memory.data());
    EXPECT_TRUE(std::all_of(data, data + bytes, [](unsigned char c) { return c == 0; }));
    std::fill_n(data, bytes, static_cast<unsigned char>(1));
  }
  DomainMemory memory;
  const Status status = context.allocate(kEachDomain, 4 << 12, &memory);
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_EQ(status.message(),
            "bytes is 16384; expected a multiple of 12288: whole pages of memory for each domain");
  EXPECT_EQ(memory.data(), nullptr);
}

TEST(Context, MemoryThatCannotBeHadIsAnErrorAndChangesNothing) {
  const Context context = context_of(ContextOptions{});
  DomainMemory memory;
  ASSERT_TRUE(context.allocate(0, 64, &memory).ok());
  const void* const before = memory.data();
  const auto expect_error = [&](const Context& from, int domain, std::int64_t bytes, Code code,
                                const std::string& piece) {
    const Status status = from.allocate(domain, bytes, &memory);
    EXPECT_EQ(status.code(), code) << status.message();
    EXPECT_NE(status.message().find(piece), std::string::npos) << status.message();
    EXPECT_EQ(memory.data(), before);
  };
  expect_error(context, -2, 64, Code::invalid_argument, "domain is -2; expected 0..");
  expect_error(context, context.num_domains(), 64, Code::invalid_argument, "domain is ");
  expect_error(context, 0, 0, Code::invalid_argument, "bytes is 0; expected 1 or more");
  expect_error(context, 0, -5, Code::invalid_argument, "bytes is -5");
  expect_error(context, 0, std::int64_t{1} << 62, Code::out_of_memory, "4611686018427387904 bytes");
  expect_error(context, 0, INT64_MAX, Code::out_of_memory, "9223372036854775807 bytes");
  expect_error(Context(), 0, 64, Code::invalid_argument, "context is empty");
  EXPECT_EQ(context.allocate(0, 64, nullptr).code(), Code::invalid_argument);
}

TEST(Context, CopiesShareOneRuntime) {
  const Context context = context_of(ContextOptions{});
  const Context copy = context;
  EXPECT_TRUE(copy == context);
  Case c;
  c.q_len = 3;
  c.kv_len = 9;
  const Problem problem(c);
  EXPECT_TRUE(same_bits(problem.run(copy), problem.run(context)));
}

}  // namespace
}  // namespace kumiko::test
