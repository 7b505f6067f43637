# SPDX-License-Identifier: Apache-2.0
# Cross build for AArch64 on Debian's multiarch (scripts/packages-arm64.txt); programs run under user-mode emulation.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_ASM_COMPILER aarch64-linux-gnu-gcc)

# The architecture of the libraries; headers and programs are the build machine's. No CMAKE_FIND_ROOT_PATH: multiarch has one root.
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(ENV{PKG_CONFIG_LIBDIR} /usr/lib/aarch64-linux-gnu/pkgconfig:/usr/share/pkgconfig)

# A64FX is the first machine to run on, so instructions that it lacks (SVE2, dot products, i8mm) are illegal here too. Tests take fewer
# cases here (tests/support/random.h).
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64-static -cpu a64fx -E KUMIKO_TEST_THINNED=1)
