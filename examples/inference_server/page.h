// SPDX-License-Identifier: Apache-2.0
// The page at "/": page.html, compiled in.
#pragma once

namespace inference {

extern const char kPage[];

}  // namespace inference
