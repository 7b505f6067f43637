// SPDX-License-Identifier: Apache-2.0
// Checks that keep foreign web pages from using a server on the reader's own machine.
//
// A browser lets any page send requests to 127.0.0.1. It puts the page's origin into Origin. A page that
// points its own host name at 127.0.0.1 (DNS rebinding) has the same origin as the server, but its name is in
// Host. Without permission a page can send forms and plain text, hence the check of Content-Type (Fetch
// Standard, "CORS protocol"; RFC 9110, section 7.2).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "http.h"

namespace inference {

struct AccessOptions {
  std::vector<std::string>
      hosts;  ///< names that Host may have besides 127.0.0.1, localhost and [::1], without a port
  std::vector<std::string> origins;  ///< allowed origins ("https://example.org") besides the server's own
};

class Access {
 public:
  explicit Access(AccessOptions options);

  /// 421 if Host is none of the server's names, 403 if Origin is neither the server's own nor allowed.
  std::optional<HttpAnswer> refuse(const HttpHead& head) const;
  /// 415 unless the body is JSON in UTF-8 without an encoding.
  std::optional<HttpAnswer> refuse_body(const HttpHead& head) const;
  /// The Origin of a foreign page that is allowed, which CORS headers must name; nothing for the server's
  /// own.
  std::optional<std::string_view> foreign_origin(const HttpHead& head) const;

 private:
  bool is_own(const HttpHead& head, std::string_view origin) const;
  AccessOptions options_;
};

}  // namespace inference
