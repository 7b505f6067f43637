// SPDX-License-Identifier: Apache-2.0
// Who may ask: the checks that keep a web page of somebody else from using a server on the reader's own
// machine.
//
// A browser lets any page send requests to 127.0.0.1. It names the page's origin in Origin; and a page that
// points its own host name at 127.0.0.1 (DNS rebinding) is of the same origin, but its name stands in Host.
// What a page can send without being asked for leave are forms and plain text, hence the check of
// Content-Type (Fetch Standard, "CORS protocol"; RFC 9110, section 7.2).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "http.h"

namespace inference {

struct AccessOptions {
  std::vector<std::string>
      hosts;  ///< names beside 127.0.0.1, localhost and [::1] that Host may hold, without a port
  std::vector<std::string> origins;  ///< origins ("https://example.org") that may ask beside the server's own
};

class Access {
 public:
  explicit Access(AccessOptions options);

  /// 421 where Host is none of the server's names, 403 where Origin is neither the server's own nor allowed.
  std::optional<HttpAnswer> refuse(const HttpHead& head) const;
  /// 415 unless the body is JSON in UTF-8 as it is.
  std::optional<HttpAnswer> refuse_body(const HttpHead& head) const;
  /// The Origin of a page elsewhere that may ask, and must be told so; nothing for the server's own.
  std::optional<std::string_view> foreign_origin(const HttpHead& head) const;

 private:
  bool is_own(const HttpHead& head, std::string_view origin) const;
  AccessOptions options_;
};

}  // namespace inference
