// One call of the C ABI with memory of its own, made from the fuzzer's bytes: a sound problem first, then
// faults. What is sound is decided here once more, in 128 bits and apart from the library.
#pragma once

#include <kumiko/attention_c.h>

#include <cstdint>
#include <string>
#include <vector>

#include "tests/fuzz/input.h"

namespace kumiko::fuzz {

class Problem {
 public:
  /// A small problem that the library must accept.
  explicit Problem(Input& input);
  Problem(const Problem&) = delete;

  /// Changes one thing: a size, a stride, a pointer, an enumerator, struct_size, ...
  void add_fault(Input& input);
  bool is_faulty() const { return is_faulty_; }

  /// The arguments in memory of exactly struct_size bytes, as AddressSanitizer is to see it.
  const kumiko_attention_args* pass();
  /// What the library must take them for: the defaults where struct_size ends before a field.
  kumiko_attention_args seen() const;

  /// Whether the documentation allows the problem, pointers aside. Two elements of out or lse in one place
  /// count only where owns_memory(). A run that is not to give lse does not look at its strides; a plan
  /// always does.
  bool is_sane(bool with_lse = true) const;
  /// Every pointer is null, misaligned, or the start of a buffer here that holds all the tensor's elements:
  /// run() is safe to call.
  bool owns_memory() const;
  /// is_sane(), owns_memory(), no pointer is missing, none shared with an output.
  bool is_runnable() const;
  bool has_output() const;
  /// What a plan keeps: all but pointers.
  struct Planned {
    kumiko_attention_args args;
    std::vector<std::int32_t> lengths;
  };
  Planned planned() const;
  bool is_same(const Planned& other) const;

  void poison_outputs();
  bool outputs_untouched() const;
  /// Every element of out and lse was written, and nothing between them.
  bool outputs_written() const;
  /// For the report of a failure.
  std::string describe() const;
  /// Bit patterns of out and lse.
  std::vector<std::uint32_t> outputs() const;

 private:
  void change_tensor(Input& input);
  void change_pointer(Input& input);
  void change_all_sizes(Input& input);
  const std::vector<float>* buffer_at(const void* pointer) const;
  bool owns(const void* pointer, const std::int64_t* shape, const std::int64_t* stride, int dims) const;
  /// Marks the elements; false when two are in one place.
  static bool mark(const std::int64_t* shape, const std::int64_t* stride, int dims, std::vector<bool>* marks);

  std::vector<float> q_, k_, v_, out_, lse_;
  std::vector<std::int32_t> lengths_;
  kumiko_attention_args args_ = KUMIKO_ATTENTION_ARGS_INIT;
  bool has_unknown_field_ = false;
  bool is_faulty_ = false;
  std::vector<unsigned char> passed_;
};

}  // namespace kumiko::fuzz
