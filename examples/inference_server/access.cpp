// SPDX-License-Identifier: Apache-2.0
#include "access.h"

#include <algorithm>
#include <utility>

namespace inference {
namespace {

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

bool contains(const std::vector<std::string>& list, const std::string& text) {
  return std::find(list.begin(), list.end(), text) != list.end();
}

/// "name:80" -> "name", "[::1]:80" -> "[::1]".
std::string without_port(std::string_view host) {
  const std::size_t bracket = host.rfind(']');
  const std::size_t colon = host.rfind(':');
  if (colon != std::string_view::npos && (bracket == std::string_view::npos || colon > bracket)) {
    host = host.substr(0, colon);
  }
  return lower(host);
}

std::string quote(std::string_view text) {
  return "'" + std::string(text.substr(0, 60)) + "'";
}

}  // namespace

Access::Access(AccessOptions options) : options_(std::move(options)) {
  for (std::string& host : options_.hosts) host = lower(host);
  for (std::string& origin : options_.origins) origin = lower(origin);
  for (const char* name : {"127.0.0.1", "localhost", "[::1]"}) options_.hosts.emplace_back(name);
}

bool Access::is_own(const HttpHead& head, std::string_view origin) const {
  return lower(origin) == "http://" + lower(head.header("host").value_or(""));
}

std::optional<std::string_view> Access::foreign_origin(const HttpHead& head) const {
  const auto origin = head.header("origin");
  if (!origin || is_own(head, *origin) || !contains(options_.origins, lower(*origin))) return std::nullopt;
  return origin;
}

std::optional<HttpAnswer> Access::refuse(const HttpHead& head) const {
  const std::string_view host = head.header("host").value_or("");
  if (!contains(options_.hosts, without_port(host))) {
    HttpAnswer answer = error_response(
        421, "Host is " + quote(host) + ", expected 127.0.0.1, localhost or a name given with --allow-host");
    answer.close = true;
    return answer;
  }
  const auto origin = head.header("origin");
  if (!origin || is_own(head, *origin) || foreign_origin(head)) return std::nullopt;
  HttpAnswer answer = error_response(
      403, "Origin is " + quote(*origin) + ", expected this server's own or one given with --allow-origin");
  answer.close = true;
  return answer;
}

std::optional<HttpAnswer> Access::refuse_body(const HttpHead& head) const {
  const auto encoding = head.header("content-encoding");
  if (encoding && lower(trim(*encoding)) != "identity") {
    return error_response(415, "Content-Encoding is " + quote(*encoding) + ", expected the body as it is");
  }
  const auto type = head.header("content-type");
  if (!type) return error_response(415, "there is no Content-Type, expected application/json");
  const std::string_view name = type->substr(0, type->find(';'));
  if (lower(trim(name)) != "application/json") {
    return error_response(415, "Content-Type is " + quote(*type) + ", expected application/json");
  }
  std::string_view rest = type->substr(name.size());
  while (!rest.empty()) {
    rest.remove_prefix(1);  // the semicolon
    const std::string parameter = lower(trim(rest.substr(0, rest.find(';'))));
    rest = rest.substr(std::min(rest.size(), rest.find(';')));
    const bool is_charset = parameter.starts_with("charset=");
    if (is_charset && parameter != "charset=utf-8" && parameter != "charset=\"utf-8\"") {
      return error_response(415, "Content-Type is " + quote(*type) + ", expected JSON in UTF-8");
    }
  }
  return std::nullopt;
}

}  // namespace inference
