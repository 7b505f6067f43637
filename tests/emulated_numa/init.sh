#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=dash
# The first process of the emulated machine: runs the tests and switches the machine off. boot.py reads the lines that begin with "guest:".
/bin/busybox mkdir -p /proc /sys /dev /tmp
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t tmpfs tmp /tmp
# Keep kernel messages from splitting a line of output.
echo 1 >/proc/sys/kernel/printk

# Otherwise libgomp would spin through ten emulated time slices.
export OMP_WAIT_POLICY=passive
failed=0
run() {
  echo "guest: $*"
  "$@" || failed=1
}
run /numa_test --gtest_color=no --gtest_filter='AllCores.*:*/AllCores.*'
run /bin/busybox env KUMIKO_CPUS=12-23,36-47 /numa_test --gtest_color=no --gtest_filter='TwoCmgs.*:*/TwoCmgs.*'
run /numa_test --gtest_color=no --gtest_filter='MbindDenied.*:*/MbindDenied.*'
/bin/busybox rm /lib/aarch64-linux-gnu/libtbbbind*
run /numa_test --gtest_color=no --gtest_filter='WithoutTbbbind.*'
echo "guest: exit $failed"
/bin/busybox poweroff -f
