// SPDX-License-Identifier: Apache-2.0
// KUMIKO_* variables, each in a process of its own: what they choose, and the error if that is not possible.
#include <gtest/gtest.h>
#include <sched.h>

#include "tests/runtime/probe.h"
#include "tests/support/host.h"

namespace kumiko::test {
namespace {

constexpr const char* kBig = "KUMIKO_TOPOLOGY=pack:1 l3:2 core:4 pu:1";

void expect_error(const ProbeResult& result, int code, const std::string& name, const std::string& value) {
  EXPECT_EQ(result.exit_status, 0);
  EXPECT_EQ(result.out.find("code " + std::to_string(code) + "\n"), 0u) << result.out;
  EXPECT_TRUE(result.says(name)) << "does not name " << name << ": " << result.out;
  EXPECT_TRUE(result.says(value)) << "does not give the value " << value << ": " << result.out;
  EXPECT_TRUE(result.says("expected")) << result.out;
  EXPECT_EQ(result.err, "") << "the library must not print";
}

int first_allowed_cpu() {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof set, &set);
  int cpu = 0;
  while (!CPU_ISSET(cpu, &set)) ++cpu;
  return cpu;
}

TEST(Environment, UnsetOrEmptyAsksForNothing) {
  const ProbeResult unset = probe({});
  EXPECT_EQ(unset.exit_status, 0);
  EXPECT_EQ(unset.out.find("code 0\n"), 0u) << unset.out;
  EXPECT_EQ(unset.err, "");
  EXPECT_TRUE(unset.says("isa " + default_isa() + "\n")) << unset.out;
  EXPECT_TRUE(unset.says("executor openmp, policy heads_first")) << unset.out;
  const ProbeResult empty = probe(
      {"KUMIKO_ISA=", "KUMIKO_NUM_THREADS=", "KUMIKO_BIND=", "KUMIKO_EXECUTOR=", "KUMIKO_CPUS=",
       "KUMIKO_TOPOLOGY=", "KUMIKO_POLICY=", "KUMIKO_PIPELINE=", "KUMIKO_PRECISION=", "KUMIKO_VERBOSE="});
  EXPECT_EQ(empty.out, unset.out);
}

TEST(Environment, ValuesThatDoNotParseAreErrors) {
  for (const char* value : {"0", "-1", "two", "2x", "1.5", " 2", "99999999999999999999", "+2"})
    expect_error(probe({std::string("KUMIKO_NUM_THREADS=") + value}), 4, "KUMIKO_NUM_THREADS", value);
  for (const char* value : {"AVX2", "sse", "avx512 ", "best"})
    expect_error(probe({std::string("KUMIKO_ISA=") + value}), 4, "KUMIKO_ISA", value);
  for (const char* value : {"compact", "Close", "0"})
    expect_error(probe({std::string("KUMIKO_BIND=") + value}), 4, "KUMIKO_BIND", value);
  for (const char* value : {"omp", "pthreads"})
    expect_error(probe({std::string("KUMIKO_EXECUTOR=") + value}), 4, "KUMIKO_EXECUTOR", value);
  for (const char* value : {"greedy", "heads"})
    expect_error(probe({std::string("KUMIKO_POLICY=") + value}), 4, "KUMIKO_POLICY", value);
  for (const char* value : {"fast", "four_pass"})
    expect_error(probe({std::string("KUMIKO_PIPELINE=") + value}), 4, "KUMIKO_PIPELINE", value);
  for (const char* value : {"double", "16", "int4"})
    expect_error(probe({std::string("KUMIKO_PRECISION=") + value}), 4, "KUMIKO_PRECISION", value);
  for (const char* value : {"a", "3-", "1-0", "0,,1", "-2", "0-99999999999"})
    expect_error(probe({std::string("KUMIKO_CPUS=") + value}), 4, "KUMIKO_CPUS", value);
  for (const char* value : {"yes", "2"})
    expect_error(probe({std::string("KUMIKO_VERBOSE=") + value}), 4, "KUMIKO_VERBOSE", value);
  for (const char* value : {"nonsense", "/no/such/file.xml", "core:0", "pack:x"})
    expect_error(probe({std::string("KUMIKO_TOPOLOGY=") + value}), 4, "KUMIKO_TOPOLOGY", value);
}

TEST(Environment, ChoicesAreTaken) {
  EXPECT_TRUE(probe({kBig, "KUMIKO_NUM_THREADS=3"}).says("num_threads 3\n"));
  for (const std::string& executor : kAllExecutors)
    EXPECT_TRUE(probe({"KUMIKO_EXECUTOR=" + executor}).says("executor " + executor)) << executor;
  for (const char* policy : {"flat", "heads_first"})
    EXPECT_TRUE(probe({std::string("KUMIKO_POLICY=") + policy}).says(std::string("policy ") + policy))
        << policy;
  for (const char* bind : {"close", "spread", "none"})
    EXPECT_TRUE(probe({std::string("KUMIKO_BIND=") + bind}).says(std::string("bind ") + bind)) << bind;
  for (const char* pipeline : {"online", "decode", "two_pass", "interleaved", "three_pass"})
    EXPECT_TRUE(
        probe({std::string("KUMIKO_PIPELINE=") + pipeline}).says(std::string("pipeline: ") + pipeline))
        << pipeline;
  for (const char* precision : {"automatic", "standard"})
    EXPECT_TRUE(probe({std::string("KUMIKO_PRECISION=") + precision}).says("products of f32")) << precision;
  // The probe's tensors are f32.
  for (const char* precision : {"half", "int8"})
    expect_error(probe({std::string("KUMIKO_PRECISION=") + precision}), 2, "KUMIKO_PRECISION", precision);
  const ProbeResult big = probe({kBig});
  EXPECT_TRUE(big.says("num_threads 8\n")) << big.out;
  EXPECT_TRUE(big.says("domain 1: ")) << big.out;
}

struct EnvironmentIsa : ::testing::TestWithParam<std::string> {};

TEST_P(EnvironmentIsa, IsForcedByTheVariableAsByTheOption) {
  const ProbeResult forced = probe({"KUMIKO_ISA=" + GetParam()});
  EXPECT_EQ(forced.out.find("code 0\n"), 0u) << forced.out;
  EXPECT_TRUE(forced.says("isa " + GetParam() + "\n")) << forced.out;
  EXPECT_EQ(forced.out, probe({}, {"isa=" + GetParam()}).out);
}

INSTANTIATE_TEST_SUITE_P(Isa, EnvironmentIsa, ::testing::ValuesIn(host_isas()),
                         [](const auto& param_info) { return param_info.param; });

TEST(Environment, AnOptionBeatsItsVariable) {
  EXPECT_TRUE(probe({kBig, "KUMIKO_NUM_THREADS=3"}, {"num_threads=2"}).says("num_threads 2\n"));
  EXPECT_TRUE(probe({"KUMIKO_ISA=nonsense"}, {"isa=reference"}).says("isa reference\n"));
  EXPECT_TRUE(probe({"KUMIKO_EXECUTOR=nonsense"}, {"executor=tbb"}).says("executor tbb"));
  EXPECT_TRUE(probe({"KUMIKO_POLICY=nonsense"}, {"policy=flat"}).says("policy flat"));
  EXPECT_TRUE(probe({"KUMIKO_BIND=nonsense"}, {"bind=spread"}).says("bind spread"));
  EXPECT_TRUE(probe({"KUMIKO_TOPOLOGY=nonsense"}, {"topology=core:3 pu:1"}).says("num_threads 3\n"));
  EXPECT_TRUE(probe({"KUMIKO_CPUS=nonsense"}, {"cpus=" + std::to_string(first_allowed_cpu())})
                  .says("num_threads 1\n"));
}

TEST(Environment, ThreadsNeverExceedTheCoresAllowed) {
  const std::string cpu = std::to_string(first_allowed_cpu());
  EXPECT_TRUE(probe({}, {"pin=" + cpu}).says("num_threads 1\n")) << "affinity mask";
  EXPECT_TRUE(probe({"KUMIKO_CPUS=" + cpu}).says("num_threads 1\n"));
  for (const char* executor : {"KUMIKO_EXECUTOR=openmp", "KUMIKO_EXECUTOR=tbb", "KUMIKO_EXECUTOR=serial"}) {
    expect_error(probe({executor, "KUMIKO_NUM_THREADS=2"}, {"pin=" + cpu}), 4, "KUMIKO_NUM_THREADS", "2");
    expect_error(probe({executor, "KUMIKO_NUM_THREADS=5000"}), 4, "KUMIKO_NUM_THREADS", "5000");
    expect_error(probe({executor, kBig, "KUMIKO_NUM_THREADS=9"}), 4, "KUMIKO_NUM_THREADS", "9");
  }
  // OMP_NUM_THREADS does not set our number of threads.
  EXPECT_TRUE(probe({"OMP_NUM_THREADS=7", kBig, "KUMIKO_NUM_THREADS=3"}).says("num_threads 3\n"));
}

TEST(Environment, CpusThatAreNotAllowedHereAreErrors) {
  expect_error(probe({"KUMIKO_CPUS=4000"}), 4, "KUMIKO_CPUS", "4000");
  const ProbeResult option = probe({}, {"cpus=4000"});
  expect_error(option, 1, "cpus", "4000");
}

TEST(Environment, VerbosePrintsTheContextOnceToStandardError) {
  const ProbeResult verbose = probe({"KUMIKO_VERBOSE=1"});
  EXPECT_EQ(verbose.out.find("code 0\n"), 0u);
  EXPECT_NE(verbose.err.find("isa " + default_isa()), std::string::npos) << verbose.err;
  EXPECT_NE(verbose.err.find(" workers on CPUs " + std::to_string(first_allowed_cpu())), std::string::npos)
      << verbose.err;
  EXPECT_EQ(verbose.err.find("topology"), verbose.err.rfind("topology")) << "printed more than once:\n"
                                                                         << verbose.err;
  EXPECT_EQ(probe({"KUMIKO_VERBOSE=0"}).err, "");
}

// OpenMP would end the process: no address space has room for 200 TiB.
TEST(Environment, StacksOfOpenMpThatCannotBeHadAreAnError) {
  const std::string two = "KUMIKO_NUM_THREADS=2";
  for (const char* size : {"OMP_STACKSIZE=204800G", "OMP_STACKSIZE= 204800 g ", "OMP_STACKSIZE=209715200m",
                           "OMP_STACKSIZE=214748364800K", "OMP_STACKSIZE=214748364800",
                           "OMP_STACKSIZE=219902325555200B", "GOMP_STACKSIZE=204800G"}) {
    const ProbeResult refused = probe({kBig, two, size});
    expect_error(refused, 2, "executor is \"openmp\"", "219902325555200 bytes");
    EXPECT_EQ(probe({kBig, two, size, "KUMIKO_EXECUTOR=serial"}).out.find("code 0\n"), 0u) << size;
  }
  for (const char* size : {"OMP_STACKSIZE=8M", "OMP_STACKSIZE=1", "OMP_STACKSIZE="})
    EXPECT_EQ(probe({kBig, two, size}).out.find("code 0\n"), 0u) << size;
  EXPECT_EQ(probe({kBig, two, "OMP_STACKSIZE=8M", "GOMP_STACKSIZE=204800G"}).out.find("code 0\n"), 0u)
      << "the first counts";
  // What OpenMP cannot read, it ignores.
  for (const char* size : {"OMP_STACKSIZE=204800T", "OMP_STACKSIZE=18014398509481984G", "OMP_STACKSIZE=-1"})
    EXPECT_EQ(probe({kBig, two, size}).out.find("code 0\n"), 0u) << size;
}

TEST(Environment, OpenMpsBindingHoldsUnlessKumikoWasTold) {
  const std::pair<const char*, const char*> wishes[] = {{"close", "close"},
                                                        {"spread", "spread"},
                                                        {"true", "close"},
                                                        {"false", "none"},
                                                        {" Spread , close", "spread"}};
  for (const auto& [omp, bind] : wishes) {
    EXPECT_TRUE(probe({kBig, std::string("OMP_PROC_BIND=") + omp}).says(std::string("bind ") + bind)) << omp;
    EXPECT_TRUE(probe({kBig, std::string("OMP_PROC_BIND=") + omp, std::string("KUMIKO_BIND=") + bind})
                    .says(std::string("bind ") + bind))
        << omp;
  }
  EXPECT_TRUE(probe({kBig, "OMP_PROC_BIND=true", "KUMIKO_BIND=spread"}).says("bind spread"));
  EXPECT_TRUE(probe({kBig, "OMP_PROC_BIND=close"}, {"bind=none"}).says("bind none"))
      << "an option beats both";
}

TEST(Environment, AContradictionWithOpenMpsBindingIsAnError) {
  const std::pair<const char*, const char*> contradictions[] = {
      {"close", "spread"}, {"close", "none"}, {"spread", "close"}, {"true", "none"}, {"false", "close"}};
  for (const auto& [omp, bind] : contradictions) {
    const ProbeResult result =
        probe({kBig, std::string("OMP_PROC_BIND=") + omp, std::string("KUMIKO_BIND=") + bind});
    expect_error(result, 4, "KUMIKO_BIND", bind);
    EXPECT_TRUE(result.says(std::string("OMP_PROC_BIND is \"") + omp)) << result.out;
  }
  expect_error(probe({kBig, "OMP_PROC_BIND=master"}), 4, "OMP_PROC_BIND", "master");
}

TEST(Environment, CpusOutsideOpenMpsPlacesAreErrors) {
  const std::string cpu = std::to_string(first_allowed_cpu());
  const std::string places = "OMP_PLACES={" + cpu + "}";
  const ProbeResult inside = probe({places, "KUMIKO_CPUS=" + cpu});
  EXPECT_TRUE(inside.says("num_threads 1\n")) << inside.out;
  if (allowed_cpus() < 2) GTEST_SKIP() << "needs a second CPU, one outside the places";
  EXPECT_TRUE(probe({places}).says("num_threads 1\n")) << "places limit the cores";
  const std::string other = std::to_string(first_allowed_cpu() + 1);
  expect_error(probe({places, "KUMIKO_CPUS=" + other}), 4, "KUMIKO_CPUS", other);
}

TEST(Environment, SpinTimeIsTakenOrRefused) {
  for (const char* value : {"0", "1", "1000000"})
    EXPECT_EQ(probe({std::string("KUMIKO_SPIN_US=") + value}).out.find("code 0\n"), 0u) << value;
  for (const char* value : {"-1", "1000001", "1ms", "1e3"})
    expect_error(probe({std::string("KUMIKO_SPIN_US=") + value}), 4, "KUMIKO_SPIN_US", value);
}

TEST(Environment, TheOneShotCallReportsABadVariableEveryTime) {
  const ProbeResult good = probe({}, {"one_shot=1"});
  EXPECT_EQ(good.out.find("code 0\n"), 0u) << good.out;
  expect_error(probe({"KUMIKO_ISA=nonsense"}, {"one_shot=1"}), 4, "KUMIKO_ISA", "nonsense");
}

}  // namespace
}  // namespace kumiko::test
