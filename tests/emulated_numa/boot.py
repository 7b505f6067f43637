# SPDX-License-Identifier: Apache-2.0
"""Boots an emulated A64FX (4 NUMA nodes of 12 cores) with a test program in its initial file system and returns its verdict.

    boot.py --kernel VMLINUZ --busybox BUSYBOX --init SCRIPT [--mpi FOLDER] PROGRAM...

FOLDER holds Open MPI's packages, unpacked.

Exit status 0 only when the machine booted, ran the script to its end and reported no failure. No privileges are needed.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

NODES, CORES = 4, 12
# Where the dynamic linker looks on Debian.
LIBRARY_FOLDERS = ("/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu")
LINKER = "/lib/ld-linux-aarch64.so.1"
# oneTBB learns of NUMA nodes through this library. It opens it by name, so no ELF file lists it.
OPENED = "libtbbbind_2_5.so.3"
# What Open MPI starts by path and opens by folder, in its packages and on the machine.
MPI_PROGRAMS = ("usr/bin/orterun", "usr/bin/orted")
MPI_PLUGINS = ("usr/lib/aarch64-linux-gnu/openmpi/lib/openmpi3", "usr/lib/aarch64-linux-gnu/pmix2/lib/pmix")
MPI_TEXTS = ("usr/share/openmpi", "usr/share/pmix", "etc/openmpi")
# The last line of init.sh.
VERDICT = re.compile(r"^guest: exit (\d+)\s*$", re.MULTILINE)
# GoogleTest's line for a filter that fits no test, which it counts as passed.
NO_TESTS = re.compile(r"^\[=+\] Running 0 tests", re.MULTILINE)
DISTANCE = 20  # as A64FX firmware reports it between CMGs; 10 is local


def needed(binary):
    """File names of the shared libraries that an ELF file needs."""
    text = subprocess.run(["readelf", "-d", binary], check=True, capture_output=True, text=True).stdout
    return re.findall(r"\(NEEDED\)\s+Shared library: \[(.+)\]", text)


def find_library(name, mpi):
    """Where the library is, or None."""
    folders = [*LIBRARY_FOLDERS, *(mpi / folder.lstrip("/") for folder in LIBRARY_FOLDERS if mpi)]
    return next((Path(folder, name) for folder in folders if Path(folder, name).exists()), None)


def shared_libraries(programs, mpi=None):
    """Paths of every shared library the programs need, directly or not, and of the one they open."""
    found, names = {}, [OPENED, *(name for program in programs for name in needed(program))]
    while names:
        name = names.pop()
        if name in found:
            continue
        path = find_library(name, mpi)
        if path is None:
            sys.exit(f"boot.py: {programs[0]} needs {name}, which is in none of {', '.join(LIBRARY_FOLDERS)}: run scripts/setup")
        found[name] = path
        names += needed(path)
    return found


def copy_mpi(root, mpi):
    """Copies Open MPI's own files; returns what needs libraries."""
    copied = []
    for name in MPI_PROGRAMS:
        copied.append(root / name)
        copied[-1].parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(mpi / name, copied[-1])
    for name in MPI_PLUGINS:
        (root / name).mkdir(parents=True)
        for plugin in sorted((mpi / name).glob("*.so")):
            # Those for networks that this machine has not need libraries that it has not.
            if all(find_library(library, mpi) for library in needed(plugin)):
                copied.append(shutil.copy(plugin, root / name))
    for name in MPI_TEXTS:
        if (mpi / name).exists():
            shutil.copytree(mpi / name, root / name, ignore_dangling_symlinks=True)
    return copied


def make_initramfs(folder, programs, busybox, init, mpi=None):
    root = folder / "root"
    library_folder = root / LIBRARY_FOLDERS[0].lstrip("/")
    library_folder.mkdir(parents=True)
    (root / "bin").mkdir()
    shutil.copy(busybox, root / "bin" / "busybox")
    for program in programs:
        shutil.copy(program, root / program.name)
    shutil.copy(init, root / "init")
    (root / "init").chmod(0o755)
    (root / "bin" / "busybox").chmod(0o755)
    loaded = [*programs, *(copy_mpi(root, mpi) if mpi else [])]
    for name, path in shared_libraries(loaded, mpi).items():
        shutil.copy(path.resolve(), library_folder / name)
    shutil.copy(Path(LINKER).resolve(), root / LINKER.lstrip("/"))
    names = "\n".join(sorted(str(path.relative_to(root)) for path in root.rglob("*")))
    archive = folder / "initramfs.cpio"  # not compressed: the emulated processor would spend seconds on it
    with archive.open("wb") as out:
        subprocess.run(["cpio", "-o", "-H", "newc", "-R", "0:0", "--quiet"], input=names.encode(), stdout=out, cwd=root, check=True)
    return archive


def machine_arguments():
    # One emulation thread: with one per virtual CPU, 48 of them on few host CPUs take four times as long to boot. The guest's clock counts
    # instructions (2 ns each), not the host's time: a slow host then does not affect the guest, and the 48 CPUs waste half as many of their
    # turns waiting for one another (19 s of processor time instead of 28 for the first four tests).
    arguments = ["-machine", "virt,gic-version=3", "-cpu", "a64fx", "-accel", "tcg,thread=single,tb-size=512", "-icount", "shift=1"]
    arguments += ["-smp", f"{NODES * CORES},sockets=1,clusters={NODES},cores={CORES},threads=1", "-m", f"{NODES}G"]
    for node in range(NODES):
        arguments += ["-object", f"memory-backend-ram,id=m{node},size=1G"]
        arguments += ["-numa", f"node,nodeid={node},memdev=m{node},cpus={node * CORES}-{(node + 1) * CORES - 1}"]
    for source in range(NODES):
        for target in range(source + 1, NODES):
            arguments += ["-numa", f"dist,src={source},dst={target},val={DISTANCE}"]
    return arguments


def kernel_command_line():
    # Huge pages always on, because they can misplace memory: a 2 MiB page comes whole from the node of the thread that touches it first.
    # NUMA balancing off: it would repair, after a while, the faults that the tests look for.
    return "console=ttyAMA0 panic=-1 quiet numa_balancing=disable rodata=off transparent_hugepage=always"


def verdict(console):
    """(exit status, sentence) from everything the machine printed."""
    said = VERDICT.findall(console)
    if not said:
        return 1, "the emulated machine did not run its tests to the end"
    if len(said) > 1 or said[0] != "0":
        return 1, "tests failed on the emulated machine"
    if "[  PASSED  ]" not in console or NO_TESTS.search(console):
        return 1, "the emulated machine ran no tests, or none of a suite"
    return 0, "the emulated machine ran its tests; none failed"


def boot(arguments):
    qemu = shutil.which("qemu-system-aarch64")
    for what, there in (("qemu-system-aarch64", qemu), (arguments.kernel, arguments.kernel.exists()),
                        (arguments.busybox, arguments.busybox.exists()),
                        (arguments.mpi, not arguments.mpi or all((arguments.mpi / name).exists() for name in MPI_PROGRAMS))):
        if not there:
            sys.exit(f"boot.py: {what} is missing: run scripts/setup")
    with tempfile.TemporaryDirectory() as folder:
        archive = make_initramfs(Path(folder), arguments.programs, arguments.busybox, arguments.init, arguments.mpi)
        command = [qemu, *machine_arguments(), "-kernel", arguments.kernel, "-initrd", archive,
                   "-append", kernel_command_line(), "-nographic", "-no-reboot", "-nic", "none"]
        console = []
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace") as machine:
            alarm = threading.Timer(arguments.timeout, machine.kill)
            alarm.start()
            try:
                for line in machine.stdout:
                    console.append(line.replace("\r", ""))
                    print(console[-1], end="", flush=True)
            finally:
                alarm.cancel()
                machine.kill()
    return verdict("".join(console))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kernel", type=Path, required=True)
    parser.add_argument("--busybox", type=Path, required=True)
    parser.add_argument("--init", type=Path, required=True)
    parser.add_argument("--timeout", type=float, default=1500, help="seconds after which the machine is switched off")
    parser.add_argument("--mpi", type=Path, help="folder of Open MPI's unpacked packages")
    parser.add_argument("programs", type=Path, nargs="+")
    status, sentence = boot(parser.parse_args())
    print(f"boot.py: {sentence}")
    sys.exit(status)


if __name__ == "__main__":
    main()
