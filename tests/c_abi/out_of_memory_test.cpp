// Every allocation the C ABI makes on the caller's thread is made to fail in turn. Each failure must come
// back as out_of_memory with the output parameters untouched, and the next attempt must succeed: nothing is
// left half done.
#include <gtest/gtest.h>
#include <kumiko/attention_c.h>

#include <cstdlib>
#include <new>
#include <vector>

namespace {
// Allocations of this thread that still succeed; negative: all of them.
thread_local long allocations_left = -1;

void* allocate(std::size_t size, std::size_t alignment) noexcept {
  if (allocations_left == 0) return nullptr;
  if (allocations_left > 0) --allocations_left;
  if (size == 0) size = 1;
  return alignment == 0 ? std::malloc(size)
                        : std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

void* allocate_or_throw(std::size_t size, std::size_t alignment) {
  void* memory = allocate(size, alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
}  // namespace

void* operator new(std::size_t size) {
  return allocate_or_throw(size, 0);
}
void* operator new[](std::size_t size) {
  return allocate_or_throw(size, 0);
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return allocate(size, 0);
}
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return allocate(size, 0);
}
void* operator new(std::size_t size, std::align_val_t a) {
  return allocate_or_throw(size, static_cast<std::size_t>(a));
}
void* operator new[](std::size_t size, std::align_val_t a) {
  return allocate_or_throw(size, static_cast<std::size_t>(a));
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete[](void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}

namespace {

// Calls `attempt` with 0, 1, 2, ... allocations allowed until it succeeds; every call before must say
// out_of_memory. Returns how many allocations the success took.
template <class Attempt>
long fail_each_allocation(Attempt&& attempt) {
  for (long allowed = 0; allowed < 100000; ++allowed) {
    allocations_left = allowed;
    const kumiko_status status = attempt();
    allocations_left = -1;
    if (status == KUMIKO_OK) return allowed;
    EXPECT_EQ(status, KUMIKO_OUT_OF_MEMORY) << "with " << allowed << " allocations: " << kumiko_last_error();
    EXPECT_STRNE(kumiko_last_error(), "") << "with " << allowed << " allocations";
    if (testing::Test::HasFailure()) return -1;
  }
  ADD_FAILURE() << "never succeeded";
  return -1;
}

struct Problem {
  std::vector<float> q = std::vector<float>(4 * 9 * 8, 0.25f), kv = std::vector<float>(2 * 300 * 8, 0.5f),
                     out = q;
  kumiko_attention_args args = KUMIKO_ATTENTION_ARGS_INIT;
  Problem() {
    args.q = kumiko_const_tensor_bhsd(q.data(), 1, 4, 9, 8);
    args.k = kumiko_const_tensor_bhsd(kv.data(), 1, 2, 300, 8);
    args.v = kumiko_const_tensor_bhsd(kv.data(), 1, 2, 300, 8);
    args.out = kumiko_tensor_bhsd(out.data(), 1, 4, 9, 8);
  }
};

class OutOfMemory : public testing::TestWithParam<const char*> {
 protected:
  kumiko_context_options options() const {
    kumiko_context_options made = KUMIKO_CONTEXT_OPTIONS_INIT;
    made.executor = GetParam();
    made.num_threads = 2;
    return made;
  }
};

TEST_P(OutOfMemory, PlanCreateReportsEachFailure) {
  const kumiko_context_options options = this->options();
  kumiko_context* context = nullptr;
  ASSERT_EQ(kumiko_context_create(&options, &context), KUMIKO_OK) << kumiko_last_error();
  const Problem problem;
  kumiko_plan* plan = nullptr;
  EXPECT_GT(fail_each_allocation([&] {
              const kumiko_status status = kumiko_plan_create(context, &problem.args, &plan);
              EXPECT_EQ(plan != nullptr, status == KUMIKO_OK);
              return status;
            }),
            0);
  const char* text = nullptr;
  EXPECT_GT(fail_each_allocation([&] { return kumiko_plan_explain(plan, &text); }), 0);
  EXPECT_NE(text, nullptr);
  kumiko_plan_destroy(plan);
  kumiko_context_destroy(context);
}

TEST_P(OutOfMemory, ForwardReportsEachFailureAndThenSucceeds) {
  const kumiko_context_options options = this->options();
  kumiko_context* context = nullptr;
  ASSERT_EQ(kumiko_context_create(&options, &context), KUMIKO_OK) << kumiko_last_error();
  Problem problem;
  problem.out.assign(problem.out.size(), 7.0f);
  EXPECT_GT(fail_each_allocation([&] { return kumiko_attention_forward(context, &problem.args); }), 0);
  // Every value row is 0.5: so is every weighted mean of them.
  for (const float value : problem.out) ASSERT_NEAR(value, 0.5f, 1e-6f);
  kumiko_context_destroy(context);
}

TEST_P(OutOfMemory, ContextCreateReportsEachFailure) {
  const kumiko_context_options options = this->options();
  kumiko_context* context = nullptr;
  EXPECT_GT(fail_each_allocation([&] {
              const kumiko_status status = kumiko_context_create(&options, &context);
              EXPECT_EQ(context != nullptr, status == KUMIKO_OK);
              return status;
            }),
            0);
  int32_t threads = 0;
  EXPECT_EQ(kumiko_context_num_threads(context, &threads), KUMIKO_OK);
  EXPECT_GE(threads, 1);
  kumiko_context_destroy(context);
}

INSTANTIATE_TEST_SUITE_P(Executors, OutOfMemory, testing::Values("serial", "openmp", "tbb"),
                         [](const auto& executor) { return std::string(executor.param); });

}  // namespace
