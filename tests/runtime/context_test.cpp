// What a Context can be made with, and what it says of itself.
#include <gtest/gtest.h>

#include <functional>

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
  EXPECT_EQ(context.impl(), before.impl()) << "*context must be untouched on error";
}

TEST(Context, DefaultsAreTheBestIsaAndAtMostTheAllowedCpus) {
  const Context context = context_of(ContextOptions{});
  EXPECT_TRUE(context);
  EXPECT_EQ(context.isa(), host_isas().front());
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
    options.*option = "0\nkumiko: all is well\x1b[2J";
    Context context;
    const Status status = Context::create(options, &context);
    EXPECT_EQ(status.code(), Code::invalid_argument);
    EXPECT_NE(status.message().find("all is well"), std::string::npos) << status.message();
    for (const char c : status.message())
      EXPECT_FALSE(static_cast<unsigned char>(c) < ' ') << status.message();
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
  EXPECT_EQ(empty.isa(), "");
  EXPECT_NE(empty.describe(), "");
}

TEST(Context, CopiesShareOneRuntime) {
  const Context context = context_of(ContextOptions{});
  const Context copy = context;
  EXPECT_EQ(copy.impl(), context.impl());
  Case c;
  c.q_len = 3;
  c.kv_len = 9;
  const Problem problem(c);
  EXPECT_TRUE(same_bits(problem.run(copy), problem.run(context)));
}

}  // namespace
}  // namespace kumiko::test
