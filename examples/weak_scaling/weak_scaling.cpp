// SPDX-License-Identifier: Apache-2.0
// Work that grows with the cores, each with the same share: time should not change.
#include "../scaling/scaling.h"

int main(int argc, char** argv) {
  return scaling::run(scaling::Mode::weak, argc, argv);
}
