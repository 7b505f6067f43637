// SPDX-License-Identifier: Apache-2.0
// One call of the C ABI with memory of its own, made from the fuzzer's bytes: a valid problem first, then
// faults. Validity is decided here independently of the library.
#pragma once

#include <kumiko/attention_c.h>

#include <cstdint>
#include <string>
#include <vector>

#include "tests/fuzz/input.h"
#include "tests/fuzz/memory.h"

namespace kumiko::fuzz {

class Problem {
 public:
  Problem() = default;
  Problem(const Problem&) = delete;
  virtual ~Problem() = default;

  /// Changes one thing: a size, a stride, a type, a pointer, an enumerator, struct_size, ...
  void add_fault(Input& input) {
    is_faulty_ = true;
    change(input);
  }
  bool is_faulty() const { return is_faulty_; }
  /// No fault, and every value of the inputs is finite, or a bias of -inf.
  bool is_plain() const { return !is_faulty_ && !has_specials_; }

  /// Puts the arguments where call() takes them from, in memory of exactly their size.
  virtual void pass() = 0;
  virtual kumiko_status call(const kumiko_context* context) const = 0;

  /// Whether the documentation allows the problem, pointers aside. Two elements of an output at one address
  /// count only if owns_memory().
  virtual bool is_sane() const = 0;
  /// Every pointer is either the start of a buffer here that holds all the tensor's elements, or must be
  /// refused: null, misaligned, too close to the end of the address space. The call is safe to make.
  virtual bool owns_memory() const;
  /// is_sane(), owns_memory(), no pointer missing and none shared with an output.
  virtual bool is_runnable() const { return is_sane() && has_memory(); }
  bool has_output() const;
  /// Valid, but this call returns unsupported.
  virtual bool is_unsupported() const { return false; }

  void poison_outputs();
  bool outputs_untouched() const;
  /// Every element of the outputs was written, and nothing between them.
  bool outputs_written() const;
  /// All elements of outputs, as bytes.
  std::vector<unsigned char> outputs() const;
  /// For a plain problem: the outputs are numbers, and small if a bound is known.
  virtual bool outputs_are_right() const = 0;
  std::vector<double> output_values() const;
  /// The type of each of output_values().
  std::vector<std::int32_t> output_types() const;
  /// How much two instruction sets may differ in an element of about this value and of this type.
  virtual double tolerance(double value, std::int32_t dtype) const = 0;
  /// The product of sizes that a run's time is proportional to.
  virtual Wide work() const = 0;
  /// For the report of a failure.
  std::string describe() const;

 protected:
  /// The parts of a tensor that faults change.
  struct Field {
    void* data;  ///< address of the pointer, of either type
    std::int32_t *dtype, *reserved;
    std::int64_t *shape, *stride;
  };
  template <class Tensor>
  static Field field_of(Tensor& t) {
    return {&t.data, &t.dtype, &t.reserved, t.shape, t.stride};
  }
  template <class Tensor>
  static Operand operand_of(const char* name, const Tensor& t, std::size_t home, bool is_output = false) {
    Operand o{name, t.data, t.dtype, 4, {}, {}, home, is_output};
    std::copy(t.shape, t.shape + 4, o.shape.begin());
    std::copy(t.stride, t.stride + 4, o.stride.begin());
    return o;
  }
  static Operand lse_of(const char* name, const float* data, const std::int64_t* stride,
                        const std::int64_t* shape, std::size_t home, bool is_output = true) {
    return {name, data,     KUMIKO_F32, 3, {shape[0], shape[1], shape[2], 0}, lse_strides(stride, shape),
            home, is_output};
  }

  /// One dimension of one of tensors().
  struct Dim {
    std::size_t tensor, dim;
  };

  virtual void change(Input& input) = 0;
  /// The tensors whose memory a run needs, without absent optional ones.
  virtual std::vector<Operand> operands() const = 0;
  /// What a run writes of an output.
  virtual Operand written_part(const Operand& o) const { return o; }
  /// All tensors, the output last.
  virtual std::vector<Field> tensors() = 0;
  /// Addresses of the pointers that belong to none of tensors().
  virtual std::vector<void*> pointers() = 0;
  /// Groups of dimensions that must have the same size.
  virtual std::vector<std::vector<Dim>> sizes() const = 0;
  virtual std::string describe_options() const = 0;

  void change_tensor(Input& input);
  void change_pointer(Input& input);
  void change_all_sizes(Input& input);
  /// owns_memory(), every output in its own buffer and no input in an output's. If the output is empty,
  /// owns_memory() is enough.
  bool has_memory() const;
  /// No two elements of an output are known to share an address.
  bool outputs_apart() const;

  Buffer& add_input(std::int64_t count, std::int32_t dtype, std::uint32_t seed) {
    buffers_.emplace_back(count, dtype, false).fill(seed, has_specials_);
    return buffers_.back();
  }
  Buffer& add_output(std::int64_t count, std::int32_t dtype) {
    return buffers_.emplace_back(count, dtype, true);
  }
  const Buffer* buffer_at(const void* pointer) const;

  std::vector<Buffer> buffers_;
  bool is_faulty_ = false, has_specials_ = false;

 private:
  bool owns(const Operand& o) const;
};

}  // namespace kumiko::fuzz
