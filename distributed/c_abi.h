// SPDX-License-Identifier: Apache-2.0
// What libkumiko exports for the C ABI of libkumiko_mpi (runtime/convert_c.cpp, attention_c.cpp,
// report_c.cpp). Declared here because libkumiko_mpi uses installed headers only, and none declares it.
#pragma once

#include <kumiko/attention.h>
#include <kumiko/attention_c.h>

#include <cstdint>
#include <string>

namespace kumiko::c_abi {

KUMIKO_API Status null_argument(const char* name, const char* expected);
KUMIKO_API Status bad_value(const std::string& name, std::int64_t value, const char* expected);
KUMIKO_API Status convert_args(const kumiko_attention_args* given, AttentionArgs* to);
KUMIKO_API Status convert_attention(const kumiko_attention_args* given, const char* name, const char* of,
                                    AttentionArgs* to);
KUMIKO_API kumiko_status report(Code code, const char* message) noexcept;
KUMIKO_API const Context& context_of(const kumiko_context& handle);

}  // namespace kumiko::c_abi
