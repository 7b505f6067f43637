// SPDX-License-Identifier: Apache-2.0
// Arguments from Python as the library's structs have them.
#pragma once

#include <kumiko/attention.h>
#include <nanobind/nanobind.h>

#include <cstdint>
#include <string>
#include <vector>

#include "tensors.h"

namespace kumiko::python {

/// The order of a tensor's dimensions: [batch, heads, seq, dim] or [batch, seq, heads, dim].
enum class Layout : std::uint8_t { bhsd, bshd };
Layout layout_of(nb::handle value);
CausalAlignment alignment_of(nb::handle value);
Pipeline pipeline_of(nb::handle value);
Precision precision_of(nb::handle value);
LseBase lse_base_of(nb::handle value);
KeyLayout key_layout_of(nb::handle value);

bool flag_of(const char* name, nb::handle value);
std::int64_t integer_of(const char* name, nb::handle value);
double number_of(const char* name, nb::handle value);
/// For a scale that 0 stands for the default of: None is 0, and 0 the smallest normal number, with which
/// every finite score below 1e30 has the same weight.
float scale_of(nb::handle value);
/// (left, right), where None and -1 mean no limit; None is no window.
void window_of(nb::handle value, std::int64_t* left, std::int64_t* right);
/// Integers of a list, a tuple, or a tensor of int32 or int64, in order.
std::vector<std::int32_t> integers_of(const char* name, nb::handle value);
/// The same, which must be `count`: "one for each sequence".
std::vector<std::int32_t> integers_of(const char* name, nb::handle value, std::int64_t count,
                                      const char* what);
/// The numbers of used keys; none for None.
std::vector<std::int32_t> lengths_of(nb::handle seqused_k, std::int64_t sequences);

/// Flags of a list, a tuple, or a tensor of bools; they must be `count`.
std::vector<std::uint8_t> flags_of(const char* name, nb::handle value, std::int64_t count, const char* what);

/// Refuses a tensor that is not float32.
void expect_float32(const Imported& tensor);

DataType dtype_of(const Imported& tensor);
ConstTensor input_of(const Imported& tensor, Layout layout);
/// The same, or int8.
ConstTensor query_or_key_of(const Imported& tensor, Layout layout);
Tensor output_of(const Imported& tensor, Layout layout);
Tensor int8_output_of(const Imported& tensor, Layout layout);
/// f32 of up to three dimensions, broadcast to the first three sizes of `shape`
ScaleView scales_of(const Imported& tensor, const std::array<std::int64_t, 4>& shape);
/// f32 [batch, heads, seq], the first three sizes of `shape`, which is that of `whose`.
LseView lse_of(const Imported& tensor, const std::array<std::int64_t, 4>& shape, const char* whose);
/// A mask or bias of up to four dimensions, broadcast to `shape` as numpy does.
ConstTensor score_term_of(const Imported& tensor, const std::array<std::int64_t, 4>& shape);
/// f32 [heads] or [sequences, heads]
void slopes_of(const Imported& tensor, std::int64_t sequences, AttentionArgs* args);
/// f32 [heads]
void sinks_of(const Imported& tensor, AttentionArgs* args);
/// int32 [sequences, max_pages], its rows apart
void block_table_of(const Imported& tensor, std::int64_t sequences, AttentionArgs* args);
/// One more number than sequences
std::vector<std::int32_t> kv_indptr_of(nb::handle value, std::int64_t sequences);
/// Refuses a block table without kv_indptr for a plan that was made with it.
[[noreturn]] void wrong_kv_indptr();
/// Of the sequence that has most
std::int64_t most_pages(const std::vector<std::int32_t>& kv_indptr);
/// int32 [pages of all sequences], which `kv_indptr` parts
void page_lists_of(const Imported& tensor, const std::vector<std::int32_t>& kv_indptr, AttentionArgs* args);

}  // namespace kumiko::python
