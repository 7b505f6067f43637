// SPDX-License-Identifier: Apache-2.0
// The part of DLPack's C interface that is read here (github.com/dmlc/dlpack, dlpack.h, version 1.3), under
// names of our own: producers may bring that header's.
#pragma once

#include <cstdint>

namespace kumiko::python::dlpack {

struct Version {
  std::uint32_t major, minor;
};
struct Device {
  std::int32_t type, id;
};
constexpr std::int32_t kCpu = 1;
/// Page-locked for a GPU, and memory of the CPU all the same.
constexpr std::int32_t kCudaHost = 3;
constexpr std::int32_t kRocmHost = 11;

struct Type {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};
constexpr std::uint8_t kInt = 0, kUnsigned = 1, kFloat = 2, kBfloat = 4, kComplex = 5, kBool = 6;

struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  Type dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null: contiguous
  std::uint64_t byte_offset;
};

struct Managed {  // before version 1
  Tensor tensor;
  void* manager;
  void (*deleter)(Managed*);
};
struct ManagedVersioned {
  Version version;
  void* manager;
  void (*deleter)(ManagedVersioned*);
  std::uint64_t flags;
  Tensor tensor;
};
constexpr std::uint64_t kReadOnly = 1, kIsCopied = 2;

/// What a type's attribute __dlpack_c_exchange_api__ points to: __dlpack__ without the interpreter.
struct ExchangeApi {
  Version version;
  ExchangeApi* previous;
  void* allocate;
  int (*managed_from_object)(void* object, ManagedVersioned** out);
};

}  // namespace kumiko::python::dlpack
