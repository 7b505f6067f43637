// SPDX-License-Identifier: Apache-2.0
// One call of kv_append from Python: the library's arguments, and what keeps their memory alive.
#pragma once

#include <kumiko/kv_append.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "arguments.h"
#include "outputs.h"
#include "tensors.h"

namespace kumiko::python {

/// One int64 for each token: a contiguous tensor of that type in place, other integers copied.
class TokenNumbers {
 public:
  TokenNumbers(const char* name, nb::handle value, std::int64_t tokens);
  const std::int64_t* data() const { return in_place_ ? in_place_ : copy_.data(); }

 private:
  std::optional<Imported> tensor_;
  const std::int64_t* in_place_ = nullptr;
  std::vector<std::int64_t> copy_;
};

/// The arguments of kv_append; the optional ones may be None.
struct AppendInputs {
  nb::handle key, value, key_cache, value_cache, slot_mapping, query, query_out, positions, rotary_dim,
      interleaved, cos_sin, rope_theta, rope_scale, key_norm, query_norm, norm_eps, layout, key_layout,
      page_domains;
};

class AppendCall {
 public:
  explicit AppendCall(const AppendInputs& given);
  AppendCall(const AppendCall&) = delete;
  AppendCall& operator=(const AppendCall&) = delete;

  /// query_out, or None.
  nb::object result() const { return query_out_ ? query_out_->result() : nb::none(); }

  KvAppendArgs args;

 private:
  void set_query(const AppendInputs& given, Layout layout);
  void set_rotation(const AppendInputs& given, std::int64_t tokens);

  Imported key_, value_, key_cache_, value_cache_;
  std::optional<Imported> query_, key_norm_, query_norm_, cos_, sin_;
  std::optional<TokenNumbers> slot_mapping_, positions_;
  std::vector<std::int32_t> page_domains_;
  std::optional<Output> query_out_;
};

}  // namespace kumiko::python
