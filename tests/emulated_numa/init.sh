#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=dash
# The first process of the emulated machine: runs the tests and switches the machine off. boot.py reads the lines that begin with "guest:".
/bin/busybox mkdir -p /proc /sys /dev /tmp
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t tmpfs tmp /tmp
/bin/busybox mkdir -p /dev/shm
/bin/busybox mount -t tmpfs shm /dev/shm
/bin/busybox ip link set lo up
/bin/busybox hostname machine
# Keep kernel messages from splitting a line of output.
echo 1 >/proc/sys/kernel/printk

# Otherwise libgomp would spin through ten emulated time slices.
export OMP_WAIT_POLICY=passive PATH=/usr/bin:/bin
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
# Ranks start slowly here: what Open MPI looks for (launchers, networks) is named, so that it looks for nothing else.
run /bin/busybox env HOME=/tmp orterun --allow-run-as-root --mca plm isolated --mca pml ob1 --mca btl vader,self --mca mpi_yield_when_idle 1 \
  --map-by ppr:1:numa --bind-to numa -n 4 /ranks_numa_test --gtest_color=no
echo "guest: exit $failed"
/bin/busybox poweroff -f
