// SPDX-License-Identifier: Apache-2.0
#include "http.h"

#include <atomic>

#include "api.h"

namespace inference {
namespace {

// In a second many batches are done; after that wait a client finds the queue drained.
constexpr const char* kRetryAfterSeconds = "1";

}  // namespace

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return out;
}

std::optional<std::string_view> HttpHead::header(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (key == name) return value;
  }
  return std::nullopt;
}

HttpAnswer error_response(int status, const std::string& message) {
  HttpAnswer answer;
  answer.status = status;
  answer.body = error_answer(message);
  if (status == 503) answer.headers.emplace_back("Retry-After", kRetryAfterSeconds);
  return answer;
}

struct Reply::Pending {
  explicit Pending(std::function<void(HttpAnswer)> function) : send(std::move(function)) {}
  ~Pending() {
    if (!sent) send(error_response(500, "the request was dropped"));
  }
  std::function<void(HttpAnswer)> send;
  std::atomic<bool> sent{false};
};

Reply::Reply(std::function<void(HttpAnswer)> send) : pending_(std::make_shared<Pending>(std::move(send))) {}

void Reply::operator()(HttpAnswer answer) const {
  if (!pending_->sent.exchange(true)) pending_->send(std::move(answer));
}

}  // namespace inference
