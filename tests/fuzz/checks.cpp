// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/checks.h"

#include <kumiko/attention_backward_c.h>
#include <kumiko/kv_append_c.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>

#include "runtime/attention_fields.h"
#include "tests/fuzz/failing_new.h"

namespace kumiko::fuzz {
namespace {

int console = STDERR_FILENO;  // for libFuzzer's report; the library's own output is checked
int printed = -1;
const Problem* current = nullptr;

[[noreturn]] void fail(const char* what, const std::string& detail) {
  dprintf(console, "broken promise: %s\n  %s\n  last error: \"%s\"\n", what, detail.c_str(),
          kumiko_last_error());
  if (current) dprintf(console, "%s\n", current->describe().c_str());
  std::abort();
}
// A message about a field of the arguments begins with its name; any other contains one of the words.
bool names_an_argument(const std::string& message) {
  bool is_found = false;
  const auto find_first = [&](const char* name, std::size_t) {
    const std::size_t length = std::strlen(name);
    is_found = is_found ||
               (message.starts_with(name) && message.size() > length && std::strchr(" .[-", message[length]));
  };
  for_each_field<kumiko_attention_args>(find_first);
  for_each_field<kumiko_softmax_pv_args>(find_first);
#define KUMIKO_KV_APPEND_FIELD(name) find_first(#name, sizeof(kumiko_kv_append_args::name));
#include "runtime/kv_append_fields.inc"
#undef KUMIKO_KV_APPEND_FIELD
#define KUMIKO_BACKWARD_FIELD(name) find_first(#name, sizeof(kumiko_backward_args::name));
#include "runtime/attention_backward_fields.inc"
#undef KUMIKO_BACKWARD_FIELD
  for (const char* name : {"dlse_stride", "delta_stride", "x", "scale", "rows", "tiles"}) find_first(name, 0);
  static constexpr const char* kWords[] = {
      "states",   "count is",    "args",        "plan is",  "context",   "text",      "bytes",    "options",
      "domain",   "num_threads", "num_domains", "data is",  "cpus",      "bind",      "executor", "isa",
      "topology", "policy",      "out is",      "capacity", "stream is", "ticket is", "rates is"};
  return is_found || std::any_of(std::begin(kWords), std::end(kWords),
                                 [&](const char* word) { return message.find(word) != std::string::npos; });
}

}  // namespace

Reported::Reported(const Problem* problem) {
  current = problem;
}
Reported::~Reported() {
  current = nullptr;
}

void require(bool holds, const char* what, const std::string& detail) {
  if (!holds) fail(what, detail);
}

kumiko_status checked(kumiko_status status, const char* call) {
  const std::string message = kumiko_last_error();
  switch (status) {
    case KUMIKO_OK:
      require(message.empty(), "success leaves no error", call);
      break;
    case KUMIKO_INVALID_ARGUMENT:
    case KUMIKO_UNSUPPORTED:
      require(names_an_argument(message), "an error names the argument", call);
      require(message.find('\n') == std::string::npos, "an error is one line", call);
      break;
    case KUMIKO_OUT_OF_MEMORY:
      require(!message.empty(), "an error has a sentence", call);
      require(FailingNew::has_refused() || message.find("split states") != std::string::npos,
              "out of memory only when memory is short", call);
      break;
    default:  // invalid_environment cannot occur, as the environment is empty, and internal must not
      fail("a status that this call may return",
           call + std::string(" returned ") + kumiko_status_name(status));
  }
  return status;
}

void keep_console() {
  console = dup(STDERR_FILENO);
}

// libFuzzer has replaced standard output and error by /dev/null (-close_fd_mask=3) and kept copies.
void watch_output() {
  if (printed >= 0) return;
  printed = memfd_create("printed", MFD_CLOEXEC);
  dup2(printed, STDOUT_FILENO);
  dup2(printed, STDERR_FILENO);
}

void require_nothing_printed() {
  std::fflush(stdout);
  const off_t size = lseek(printed, 0, SEEK_END);
  if (size <= 0) return;
  std::string text(static_cast<std::size_t>(size), '\0');
  if (pread(printed, text.data(), text.size(), 0) < 0) text = "?";
  fail("nothing is printed", text);
}

}  // namespace kumiko::fuzz
