// SPDX-License-Identifier: Apache-2.0
// The same work on more and more cores: time should fall as 1 / threads.
#include "../scaling/scaling.h"

int main(int argc, char** argv) {
  return scaling::run(scaling::Mode::strong, argc, argv);
}
