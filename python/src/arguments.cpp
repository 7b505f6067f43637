// SPDX-License-Identifier: Apache-2.0
#include "arguments.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <string_view>
#include <utility>

namespace kumiko::python {
namespace {

/// The value of the name that `value` is, out of a table of them.
template <class Value, std::size_t count>
Value choice(const char* name, nb::handle value,
             const std::array<std::pair<const char*, Value>, count>& table) {
  const char* text = nullptr;
  const bool is_text = nb::try_cast(value, text) && text != nullptr;
  for (const auto& [word, meaning] : table) {
    if (is_text && std::string_view(word) == text) return meaning;
  }
  std::string expected;
  for (const auto& [word, meaning] : table)
    expected += (expected.empty() ? "\"" : ", \"") + std::string(word) + "\"";
  if (!is_text) wrong_type(name, value, expected.c_str());
  wrong_value(name, "\"" + std::string(text) + "\"", expected);
}

void expect_dims(const Imported& tensor, int dims, const char* expected) {
  if (tensor.ndim != dims) wrong_value(std::string(tensor.name) + ".shape", tensor.shape_text(), expected);
}

template <class Pointer>
View<Pointer> view_of(const Imported& tensor, Layout layout, bool is_int8 = false) {
  const bool is_bhsd = layout == Layout::bhsd;
  expect_dims(
      tensor, 4,
      is_bhsd ? "four dimensions: batch, heads, seq, dim" : "four dimensions: batch, seq, heads, dim");
  View<Pointer> view;
  view.data = tensor.data;
  for (std::size_t i = 0; i < 4; ++i) {
    const std::size_t from = is_bhsd || i == 0 || i == 3 ? i : 3 - i;
    view.shape[i] = tensor.shape[from];
    view.stride[i] = tensor.stride[from];
  }
  view.dtype = is_int8 ? DataType::i8 : dtype_of(tensor);
  return view;
}

std::int32_t to_int32(const char* name, std::size_t index, std::int64_t value) {
  if (value < std::numeric_limits<std::int32_t>::min() || value > std::numeric_limits<std::int32_t>::max())
    wrong_value(std::string(name) + "[" + std::to_string(index) + "]", std::to_string(value), "an int32");
  return static_cast<std::int32_t>(value);
}

void read_integers(const Imported& tensor, int dim, const std::byte* at, std::vector<std::int32_t>* out) {
  if (dim < tensor.ndim) {
    const auto i = static_cast<std::size_t>(dim);
    for (std::int64_t n = 0; n < tensor.shape[i]; ++n)
      read_integers(tensor, dim + 1, at + n * tensor.stride[i] * tensor.item_bytes(), out);
    return;
  }
  std::int64_t wide = 0;
  std::int32_t narrow = 0;
  if (tensor.dtype.bits == 64) {
    std::memcpy(&wide, at, sizeof wide);
  } else {
    std::memcpy(&narrow, at, sizeof narrow);
    wide = narrow;
  }
  out->push_back(to_int32(tensor.name, out->size(), wide));
}

}  // namespace

void expect_float32(const Imported& tensor) {
  if (!tensor.is(dlpack::kFloat, 32))
    wrong_value(std::string(tensor.name) + ".dtype", tensor.dtype_name(), "float32");
}

Layout layout_of(nb::handle value) {
  constexpr std::array<std::pair<const char*, Layout>, 2> kNames = {
      {{"bhsd", Layout::bhsd}, {"bshd", Layout::bshd}}};
  return choice("layout", value, kNames);
}

CausalAlignment alignment_of(nb::handle value) {
  constexpr std::array<std::pair<const char*, CausalAlignment>, 2> kNames = {
      {{"bottom_right", CausalAlignment::bottom_right}, {"top_left", CausalAlignment::top_left}}};
  return choice("causal_alignment", value, kNames);
}

Pipeline pipeline_of(nb::handle value) {
  constexpr std::array<std::pair<const char*, Pipeline>, 6> kNames = {{{"automatic", Pipeline::automatic},
                                                                       {"online", Pipeline::online},
                                                                       {"decode", Pipeline::decode},
                                                                       {"two_pass", Pipeline::two_pass},
                                                                       {"interleaved", Pipeline::interleaved},
                                                                       {"three_pass", Pipeline::three_pass}}};
  return choice("pipeline", value, kNames);
}

Precision precision_of(nb::handle value) {
  constexpr std::array<std::pair<const char*, Precision>, 4> kNames = {{{"automatic", Precision::automatic},
                                                                        {"standard", Precision::standard},
                                                                        {"half", Precision::half},
                                                                        {"int8", Precision::int8}}};
  return choice("precision", value, kNames);
}

LseBase lse_base_of(nb::handle value) {
  constexpr std::array<std::pair<const char*, LseBase>, 2> kNames = {
      {{"natural", LseBase::natural}, {"two", LseBase::two}}};
  return choice("lse_base", value, kNames);
}

KeyLayout key_layout_of(nb::handle value) {
  constexpr std::array<std::pair<const char*, KeyLayout>, 2> kNames = {
      {{"rows", KeyLayout::rows}, {"tiles_of_16", KeyLayout::tiles_of_16}}};
  return choice("key_layout", value, kNames);
}

bool flag_of(const char* name, nb::handle value) {
  if (value.ptr() == Py_True) return true;
  if (value.ptr() == Py_False) return false;
  const std::string type = nb::type_name(value.type()).c_str();  // numpy.bool, before numpy 2 numpy.bool_
  if (type != "bool" && type != "bool_") wrong_type(name, value, "True or False");
  return PyObject_IsTrue(value.ptr()) == 1;
}

std::int64_t integer_of(const char* name, nb::handle value) {
  const nb::object number = nb::steal(PyNumber_Index(value.ptr()));
  if (!number.is_valid()) {
    nb::python_error error;
    rethrow_unless_exception(error);
    wrong_type(name, value, "an integer");
  }
  const long long integer = PyLong_AsLongLong(number.ptr());
  if (integer == -1 && PyErr_Occurred())
    wrong_value_from_error(std::string(name) + " does not fit in 64 bits");
  return integer;
}

double number_of(const char* name, nb::handle value) {
  const double number = PyFloat_AsDouble(value.ptr());
  if (number == -1.0 && PyErr_Occurred()) {
    nb::python_error error;
    rethrow_unless_exception(error);
    if (error.matches(PyExc_OverflowError)) wrong_value(name, "too large for a float", "a smaller number");
    wrong_type(name, value, "a number");
  }
  return number;
}

float scale_of(nb::handle value) {
  if (value.is_none()) return 0.0f;
  const auto scale = static_cast<float>(number_of("scale", value));
  return scale == 0.0f ? std::numeric_limits<float>::min() : scale;
}

void window_of(nb::handle value, std::int64_t* left, std::int64_t* right) {
  if (value.is_none()) return;
  if (!PyTuple_Check(value.ptr()) && !PyList_Check(value.ptr()))
    wrong_type("window", value, "a pair (left, right)");
  if (nb::len(value) != 2)
    wrong_value("window", "of length " + std::to_string(nb::len(value)), "a pair (left, right)");
  if (const nb::object side = value[0]; !side.is_none()) *left = integer_of("window[0] (left)", side);
  if (const nb::object side = value[1]; !side.is_none()) *right = integer_of("window[1] (right)", side);
}

std::vector<std::int32_t> integers_of(const char* name, nb::handle value) {
  std::vector<std::int32_t> numbers;
  if (PyList_Check(value.ptr()) || PyTuple_Check(value.ptr())) {
    for (const nb::handle item : nb::borrow<nb::object>(value))
      numbers.push_back(to_int32(name, numbers.size(), integer_of(name, item)));
    return numbers;
  }
  const Imported tensor(name, value);
  if (!tensor.is(dlpack::kInt, 32) && !tensor.is(dlpack::kInt, 64))
    wrong_value(std::string(name) + ".dtype", tensor.dtype_name(), "int32 or int64");
  read_integers(tensor, 0, tensor.data, &numbers);
  return numbers;
}

std::vector<std::int32_t> integers_of(const char* name, nb::handle value, std::int64_t count,
                                      const char* what) {
  std::vector<std::int32_t> numbers = integers_of(name, value);
  if (static_cast<std::int64_t>(numbers.size()) != count)
    wrong_value(name, std::to_string(numbers.size()) + " integers", std::to_string(count) + ", " + what);
  return numbers;
}

std::vector<std::uint8_t> flags_of(const char* name, nb::handle value, std::int64_t count, const char* what) {
  std::vector<std::uint8_t> flags;
  if (PyList_Check(value.ptr()) || PyTuple_Check(value.ptr())) {
    for (const nb::handle item : nb::borrow<nb::object>(value)) flags.push_back(flag_of(name, item) ? 1 : 0);
  } else {
    const Imported tensor(name, value);
    if (!tensor.is(dlpack::kBool, 8)) wrong_value(std::string(name) + ".dtype", tensor.dtype_name(), "bool");
    expect_dims(tensor, 1, "one dimension");
    for (std::int64_t b = 0; b < tensor.size(-1); ++b)
      flags.push_back(static_cast<std::uint8_t>(tensor.data[b * tensor.step(-1)]) != 0 ? 1 : 0);
  }
  if (static_cast<std::int64_t>(flags.size()) != count)
    wrong_value(name, std::to_string(flags.size()) + " flags", std::to_string(count) + ", " + what);
  return flags;
}

std::vector<std::int32_t> lengths_of(nb::handle seqused_k, std::int64_t sequences) {
  if (seqused_k.is_none()) return {};
  return integers_of("seqused_k", seqused_k, sequences, "one for each sequence");
}

DataType dtype_of(const Imported& tensor) {
  if (tensor.is(dlpack::kFloat, 32)) return DataType::f32;
  if (tensor.is(dlpack::kFloat, 16)) return DataType::f16;
  if (tensor.is(dlpack::kBfloat, 16)) return DataType::bf16;
  wrong_value(std::string(tensor.name) + ".dtype", tensor.dtype_name(), "float32, float16 or bfloat16");
}

ConstTensor input_of(const Imported& tensor, Layout layout) {
  return view_of<const void*>(tensor, layout);
}
ConstTensor query_or_key_of(const Imported& tensor, Layout layout) {
  return view_of<const void*>(tensor, layout, tensor.is(dlpack::kInt, 8));
}
Tensor output_of(const Imported& tensor, Layout layout) {
  return view_of<void*>(tensor, layout);
}
Tensor int8_output_of(const Imported& tensor, Layout layout) {
  if (!tensor.is(dlpack::kInt, 8))
    wrong_value(std::string(tensor.name) + ".dtype", tensor.dtype_name(), "int8");
  return view_of<void*>(tensor, layout, true);
}

ScaleView scales_of(const Imported& tensor, const std::array<std::int64_t, 4>& shape) {
  expect_float32(tensor);
  if (tensor.ndim > 3)
    wrong_value(std::string(tensor.name) + ".shape", tensor.shape_text(), "at most three dimensions");
  ScaleView view{reinterpret_cast<const float*>(tensor.data), {}};
  for (int i = 1; i <= tensor.ndim; ++i) {
    const auto to = static_cast<std::size_t>(3 - i);
    const std::int64_t size = tensor.size(-i);
    if (size != 1 && size != shape[to])
      wrong_value(std::string(tensor.name) + ".shape", tensor.shape_text(),
                  "a shape that broadcasts to (" + std::to_string(shape[0]) + ", " +
                      std::to_string(shape[1]) + ", " + std::to_string(shape[2]) + ")");
    view.stride[to] = size == 1 ? 0 : tensor.step(-i);
  }
  return view;
}

LseView lse_of(const Imported& tensor, const std::array<std::int64_t, 4>& shape, const char* whose) {
  const std::string name = tensor.name;
  expect_float32(tensor);
  expect_dims(tensor, 3, "three dimensions: batch, q_heads, q_len");
  for (std::size_t i = 0; i < 3; ++i) {
    if (tensor.shape[i] != shape[i])
      wrong_value(name + ".shape[" + std::to_string(i) + "]", std::to_string(tensor.shape[i]),
                  std::to_string(shape[i]) + ", as in " + whose);
  }
  const std::array<std::int64_t, 3> stride = {tensor.stride[0], tensor.stride[1], tensor.stride[2]};
  // To the library strides of 0 alone mean a contiguous tensor.
  if (stride == std::array<std::int64_t, 3>{} && shape[0] != 0 && shape[1] != 0 && shape[2] != 0)
    wrong_value(name + ".stride", "0 in every dimension", "strides that keep the elements apart");
  return {reinterpret_cast<float*>(tensor.data), stride};
}

ConstTensor score_term_of(const Imported& tensor, const std::array<std::int64_t, 4>& shape) {
  if (tensor.ndim > 4)
    wrong_value(std::string(tensor.name) + ".shape", tensor.shape_text(), "at most four dimensions");
  ConstTensor view;
  view.data = tensor.data;
  view.shape = shape;
  view.dtype = tensor.is(dlpack::kBool, 8) ? DataType::boolean : dtype_of(tensor);
  for (int i = 1; i <= tensor.ndim; ++i) {
    const auto to = static_cast<std::size_t>(4 - i);
    const std::int64_t size = tensor.size(-i);
    if (size != 1 && size != shape[to])
      wrong_value(std::string(tensor.name) + ".shape", tensor.shape_text(),
                  "a shape that broadcasts to (" + std::to_string(shape[0]) + ", " +
                      std::to_string(shape[1]) + ", " + std::to_string(shape[2]) + ", " +
                      std::to_string(shape[3]) + ")");
    view.stride[to] = size == 1 ? 0 : tensor.step(-i);
  }
  return view;
}

void slopes_of(const Imported& tensor, std::int64_t sequences, AttentionArgs* args) {
  expect_float32(tensor);
  const std::int64_t heads = args->q.shape[1];
  const bool is_per_batch = tensor.ndim == 2;
  if (!is_per_batch) expect_dims(tensor, 1, "one or two dimensions: [q_heads] or [batch, q_heads]");
  if (tensor.size(-1) != heads || (is_per_batch && tensor.size(-2) != sequences))
    wrong_value("alibi_slopes.shape", tensor.shape_text(),
                "[q_heads] or [batch, q_heads], with q_heads " + std::to_string(heads) + " and batch " +
                    std::to_string(sequences));
  if (tensor.step(-1) != 1) wrong_value("alibi_slopes.stride[-1]", std::to_string(tensor.step(-1)), "1");
  args->alibi_slopes = reinterpret_cast<const float*>(tensor.data);
  args->alibi_batch_stride = is_per_batch ? tensor.step(-2) : 0;
}

void sinks_of(const Imported& tensor, AttentionArgs* args) {
  expect_float32(tensor);
  expect_dims(tensor, 1, "one dimension: q_heads");
  const std::int64_t heads = args->q.shape[1];
  if (tensor.size(-1) != heads)
    wrong_value("sinks.shape[0]", std::to_string(tensor.size(-1)), std::to_string(heads) + ", as q_heads");
  if (heads > 1 && tensor.step(-1) != 1) wrong_value("sinks.stride[0]", std::to_string(tensor.step(-1)), "1");
  args->sinks = reinterpret_cast<const float*>(tensor.data);
}

void block_table_of(const Imported& tensor, std::int64_t sequences, AttentionArgs* args) {
  if (!tensor.is(dlpack::kInt, 32)) wrong_value("block_table.dtype", tensor.dtype_name(), "int32");
  expect_dims(tensor, 2, "two dimensions: num_sequences, max_pages (with kv_indptr one)");
  if (tensor.size(-2) != sequences)
    wrong_value("block_table.shape[0]", std::to_string(tensor.size(-2)),
                std::to_string(sequences) + ", one row for each sequence");
  if (tensor.step(-1) != 1) wrong_value("block_table.stride[1]", std::to_string(tensor.step(-1)), "1");
  // To the library a stride of 0 means rows without a gap.
  if (sequences > 1 && tensor.step(-2) < tensor.size(-1))
    wrong_value("block_table.stride[0]", std::to_string(tensor.step(-2)),
                "at least max_pages, which is " + std::to_string(tensor.size(-1)));
  args->block_table = reinterpret_cast<const std::int32_t*>(tensor.data);
  args->max_pages = tensor.size(-1);
  args->block_table_stride = sequences > 1 ? tensor.step(-2) : 0;
}

std::vector<std::int32_t> kv_indptr_of(nb::handle value, std::int64_t sequences) {
  return integers_of("kv_indptr", value, sequences + 1, "one more than sequences");
}

void wrong_kv_indptr() {
  wrong_value("kv_indptr", "None", "given with block_table, as the plan was made with it");
}

std::int64_t most_pages(const std::vector<std::int32_t>& kv_indptr) {
  std::int64_t most = 0;
  for (std::size_t b = 1; b < kv_indptr.size(); ++b)
    most = std::max(most, std::int64_t{kv_indptr[b]} - kv_indptr[b - 1]);
  return most;
}

void page_lists_of(const Imported& tensor, const std::vector<std::int32_t>& kv_indptr, AttentionArgs* args) {
  static constexpr std::int32_t kNone = 0;  // an empty tensor may be at no address
  if (!tensor.is(dlpack::kInt, 32)) wrong_value("block_table.dtype", tensor.dtype_name(), "int32");
  expect_dims(tensor, 1, "one dimension, as kv_indptr is given");
  if (tensor.size(-1) > 1 && tensor.step(-1) != 1)
    wrong_value("block_table.stride[0]", std::to_string(tensor.step(-1)), "1");
  // The library checks that none before the last is more.
  if (kv_indptr.back() > tensor.size(-1))
    wrong_value("kv_indptr[" + std::to_string(kv_indptr.size() - 1) + "]", std::to_string(kv_indptr.back()),
                "at most " + std::to_string(tensor.size(-1)) + ", the length of block_table");
  args->block_table = tensor.data ? reinterpret_cast<const std::int32_t*>(tensor.data) : &kNone;
  args->kv_indptr = kv_indptr.data();
  args->block_table_stride = 0;
}

}  // namespace kumiko::python
