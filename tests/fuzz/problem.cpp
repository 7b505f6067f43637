// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/problem.h"

#include <algorithm>
#include <sstream>

namespace kumiko::fuzz {
namespace {

constexpr Wide kMostWork = Wide{1} << 20;

std::size_t bytes(const Operand& o) {
  return static_cast<std::size_t>(bytes_of(o.dtype));
}

// Marks the elements; false if two share an address.
bool mark(const Operand& o, std::vector<bool>* marks) {
  return each_element(o, [&](std::size_t at) {
    const bool is_new = !(*marks)[at];
    (*marks)[at] = true;
    return is_new;
  });
}

}  // namespace

const Buffer* Problem::buffer_at(const void* pointer) const {
  for (const Buffer& buffer : buffers_) {
    if (pointer && pointer == buffer.data()) return &buffer;
  }
  return nullptr;
}

bool Problem::owns(const Operand& o) const {
  const auto address = reinterpret_cast<std::uintptr_t>(o.data);
  if (address % bytes(o) != 0 || !o.data) return true;
  if (!fits(o.shape.data(), o.stride.data(), o.dims)) return false;
  const Wide size = extent_of(o.shape.data(), o.stride.data(), o.dims) * static_cast<Wide>(bytes(o));
  if (address + size > std::numeric_limits<std::uintptr_t>::max()) return true;  // beyond the address space
  const Buffer* const buffer = buffer_at(o.data);
  return buffer && size <= static_cast<Wide>(buffer->size());
}

bool Problem::owns_memory() const {
  // With strides of 0 a few floats can hold 2^31 keys, but a run over them takes minutes.
  if (work() > kMostWork) return false;
  const std::vector<Operand> all = operands();
  for (const Operand& o : all) {
    const Buffer* const buffer = buffer_at(o.data);
    const auto shares = [&](const Operand& other) {
      return &other != &o && other.data == o.data && !is_empty(other);
    };
    // An output in a buffer that nothing else uses is valid, but outputs_written() does not check that
    // buffer.
    if (o.is_output && buffer && buffer != &buffers_[o.home] && std::none_of(all.begin(), all.end(), shares))
      return false;
    // An input in the buffer of an output that is not requested is valid, too, but its values are the marks
    // of unwritten elements.
    const auto is_wanted = [&](const Operand& other) { return other.is_output && other.data == o.data; };
    if (!o.is_output && buffer && buffer->is_output() && std::none_of(all.begin(), all.end(), is_wanted))
      return false;
    if (!owns(o)) return false;
  }
  return true;
}

bool Problem::has_output() const {
  const std::vector<Operand> all = operands();
  return std::any_of(all.begin(), all.end(), [](const Operand& o) { return o.is_output && !is_empty(o); });
}

bool Problem::has_memory() const {
  if (!owns_memory()) return false;
  if (!has_output()) return true;
  const std::vector<Operand> all = operands();
  return std::all_of(all.begin(), all.end(), [&](const Operand& o) {
    if (is_empty(o)) return true;
    if (o.is_output) return o.data && o.data == buffers_[o.home].data();
    return buffer_at(o.data) && std::none_of(all.begin(), all.end(), [&](const Operand& other) {
             return other.is_output && other.data == o.data;
           });
  });
}

bool Problem::outputs_apart() const {
  if (!owns_memory() || !has_output()) return true;
  const std::vector<Operand> all = operands();
  return std::all_of(all.begin(), all.end(), [&](const Operand& o) {
    if (!o.is_output || !o.data || o.data != buffers_[o.home].data()) return true;
    std::vector<bool> marks(buffers_[o.home].size() / bytes(o));
    return mark(o, &marks);
  });
}

void Problem::poison_outputs() {
  for (Buffer& buffer : buffers_) {
    if (buffer.is_output()) buffer.poison();
  }
}

bool Problem::outputs_untouched() const {
  return std::all_of(buffers_.begin(), buffers_.end(),
                     [](const Buffer& buffer) { return !buffer.is_output() || buffer.is_poisoned(); });
}

bool Problem::outputs_written() const {
  std::vector<std::vector<bool>> written;
  for (const Buffer& buffer : buffers_) written.emplace_back(buffer.size());
  for (const Operand& o : operands()) {
    if (!o.is_output || !has_output()) continue;
    const bool all = each_element(written_part(o), [&](std::size_t at) {
      const std::size_t begin = at * bytes(o), end = begin + bytes(o);
      std::fill(written[o.home].begin() + static_cast<std::ptrdiff_t>(begin),
                written[o.home].begin() + static_cast<std::ptrdiff_t>(end), true);
      return !buffers_[o.home].is_poisoned(begin, end);
    });
    if (!all) return false;
  }
  for (std::size_t b = 0; b < buffers_.size(); ++b) {
    for (std::size_t i = 0; buffers_[b].is_output() && i < written[b].size(); ++i) {
      if (!written[b][i] && !buffers_[b].is_poisoned(i, i + 1)) return false;
    }
  }
  return true;
}

std::vector<unsigned char> Problem::outputs() const {
  std::vector<unsigned char> bytes;
  for (const Buffer& buffer : buffers_) {
    const auto* const data = static_cast<const unsigned char*>(buffer.data());
    if (buffer.is_output()) bytes.insert(bytes.end(), data, data + buffer.size());
  }
  return bytes;
}

std::vector<double> Problem::output_values() const {
  std::vector<double> values;
  for (const Operand& o : operands()) {
    if (!o.is_output) continue;
    each_element(written_part(o), [&](std::size_t at) {
      values.push_back(buffers_[o.home].value(at, o.dtype));
      return true;
    });
  }
  return values;
}

std::vector<std::int32_t> Problem::output_types() const {
  std::vector<std::int32_t> types;
  for (const Operand& o : operands()) {
    if (!o.is_output) continue;
    each_element(written_part(o), [&](std::size_t) {
      types.push_back(o.dtype);
      return true;
    });
  }
  return types;
}

std::string Problem::describe() const {
  std::ostringstream text;
  for (const Operand& o : operands()) {
    text << o.name << " of type " << o.dtype << " at " << o.data << (buffer_at(o.data) ? " (ours)" : "")
         << ", shape";
    for (std::size_t i = 0; i < static_cast<std::size_t>(o.dims); ++i) text << ' ' << o.shape[i];
    text << ", stride";
    for (std::size_t i = 0; i < static_cast<std::size_t>(o.dims); ++i) text << ' ' << o.stride[i];
    text << '\n';
  }
  text << describe_options() << "\nsane " << is_sane() << ", owns its memory " << owns_memory()
       << ", runnable " << is_runnable() << ", plain " << is_plain();
  return text.str();
}

}  // namespace kumiko::fuzz
