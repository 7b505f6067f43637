#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Boots Linux on bochs, whose Ice Lake model has AVX-512, and runs test programs of this build there.

    guest.py --boot DIR --work DIR --result FILE [--env NAME=VALUE]... [--expect PARAMETER]... 'PROGRAM ARGUMENT...'...

The programs are the ones that run natively: they travel with the dynamic loader and the libraries that ldd names. DIR of --boot
is where scripts/setup unpacked a kernel and busybox. Exits 0 only if judge.py finds no fault in the guest's output;
FILE then holds it, for the summary of scripts/test (isa_summary.py).
"""
import argparse
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import judge

HERE = pathlib.Path(__file__).resolve().parent
ISOLINUX = pathlib.Path("/usr/lib/ISOLINUX/isolinux.bin")
LDLINUX = pathlib.Path("/usr/lib/syslinux/modules/bios/ldlinux.c32")
TOOLS = ["bochs", "cpio", "script", "xorriso"]


def missing(boot: pathlib.Path) -> list[str]:
    """The files that are missing."""
    files = [boot / "bin/busybox", ISOLINUX, LDLINUX]
    found = [t for t in TOOLS if shutil.which(t) is None] + [str(f) for f in files if not f.is_file()]
    return found + ([] if list(boot.glob("boot/vmlinuz-*")) else [f"{boot}/boot/vmlinuz-*"])


def libraries(program: pathlib.Path) -> list[pathlib.Path]:
    """The loader and the shared libraries of a program, by the paths where it looks for them."""
    listing = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    if "not found" in listing:
        raise SystemExit(f"ldd {program}:\n{listing}")
    return [pathlib.Path(path) for path in re.findall(r"(?:=> |^\s*)(/\S+) \(0x", listing, re.MULTILINE)]


def make_initrd(work: pathlib.Path, boot: pathlib.Path, commands: list[str], env: list[str]) -> None:
    root = work / "root"
    shutil.rmtree(root, ignore_errors=True)
    for folder in ["bin", "dev", "proc", "sys", "tmp", "tests"]:
        (root / folder).mkdir(parents=True)
    shutil.copy(boot / "bin/busybox", root / "bin/busybox")
    (root / "bin/sh").symlink_to("busybox")
    shutil.copy(HERE / "init", root / "init")
    jobs = []
    for command in commands:
        program, *arguments = shlex.split(command)
        program = pathlib.Path(program)
        shutil.copy(program, root / "tests" / program.name)
        for library in libraries(program):
            to = root / library.relative_to("/")
            if not to.exists():
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(library, to)
        jobs.append(shlex.join([program.name, "env", *env, f"/tests/{program.name}", *arguments]))
    (root / "jobs").write_text("".join(job + "\n" for job in jobs))
    for path in [root / "init", root / "bin/busybox"]:
        path.chmod(0o755)
    names = "\n".join(sorted(str(p.relative_to(root)) for p in root.rglob("*")))
    with (work / "iso/initrd").open("wb") as out:
        subprocess.run(["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"], cwd=root, input=names.encode(), stdout=out, check=True)


def make_iso(work: pathlib.Path, boot: pathlib.Path) -> None:
    shutil.copy(max(boot.glob("boot/vmlinuz-*")), work / "iso/vmlinuz")
    for path in [ISOLINUX, LDLINUX, HERE / "isolinux.cfg"]:
        shutil.copy(path, work / "iso" / path.name)
    subprocess.run(["xorriso", "-as", "mkisofs", "-quiet", "-o", "boot.iso", "-b", "isolinux.bin", "-c", "boot.cat",
                    "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", "iso/"], cwd=work, check=True)


class Screen:
    """Discards what bochs draws on its pseudo-terminal: unread, that fills up after about five minutes (20 KB of cursor
    movements), and bochs blocks in a write for ever."""

    def __init__(self, terminal: pathlib.Path):
        self.terminal = terminal
        self.fd = -1

    def drain(self) -> None:
        try:
            if self.fd < 0:
                found = re.search(r'connected to screen "(/dev/\S+)"', self.terminal.read_text(errors="replace"))
                if not found:
                    return
                self.fd = os.open(found[1], os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
            while os.read(self.fd, 65536):
                pass
        except OSError:  # nothing more for now, or bochs has gone
            pass

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def run(work: pathlib.Path, timeout: float) -> str:
    """The serial line's text. Echoes it as it comes, with the wall time: the guest's clock is not real time."""
    serial = work / "serial.log"
    serial.write_text("")
    # Debian's bochs starts in its debugger ("c" continues) and wants a terminal. It exits 1 after a clean power-off.
    (work / "continue").write_text("c\n")
    start = time.monotonic()
    screen = Screen(work / "terminal.log")
    with (work / "terminal.log").open("wb") as terminal:
        bochs = subprocess.Popen(["script", "-qec", f"bochs -f {shlex.quote(str(HERE / 'bochsrc'))} -rc continue", "/dev/null"], cwd=work,
                                 env=os.environ | {"TERM": "xterm"}, stdin=subprocess.DEVNULL, stdout=terminal,
                                 stderr=subprocess.STDOUT, start_new_session=True)
        try:
            shown = 0
            done_at = None
            while True:
                running = bochs.poll() is None
                screen.drain()
                text = serial.read_text(errors="replace")
                end = text.rfind("\n") + 1
                for line in text[shown:end].splitlines():
                    print(f"{time.monotonic() - start:6.1f} s  {line}", flush=True)
                shown = max(shown, end)
                now = time.monotonic()
                if done_at is None and judge.is_over(text):
                    done_at = now
                if not running or now - start > timeout or (done_at is not None and now - done_at > 20):
                    return text
                time.sleep(0.2)
        finally:
            if bochs.poll() is None:
                os.killpg(bochs.pid, signal.SIGKILL)
            bochs.wait()
            screen.close()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--boot", type=pathlib.Path, required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--env", action="append", default=[])
    parser.add_argument("--result", type=pathlib.Path, required=True)
    parser.add_argument("--expect", action="append", default=[], help="a test with this parameter must pass")
    parser.add_argument("--timeout", type=float, default=1500)
    parser.add_argument("commands", nargs="+")
    args = parser.parse_args()
    args.result.unlink(missing_ok=True)  # from an earlier run
    # A terminated test ends its emulator, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if lacking := missing(args.boot):
        print(f"not found: {', '.join(lacking)}; scripts/setup emulated installs them", file=sys.stderr)
        return 1
    shutil.rmtree(args.work, ignore_errors=True)
    (args.work / "iso").mkdir(parents=True)
    make_initrd(args.work, args.boot, args.commands, args.env)
    make_iso(args.work, args.boot)
    text = run(args.work, args.timeout)
    objections = judge.objections(text, [pathlib.Path(shlex.split(c)[0]).name for c in args.commands], args.expect)
    for objection in objections:
        print(f"FAILED: {objection}")
    if objections:
        return 1
    version = re.search(r"Bochs x86 Emulator (\S+)", (args.work / "terminal.log").read_text(errors="replace"))
    args.result.parent.mkdir(parents=True, exist_ok=True)
    args.result.write_text(f"# emulated by bochs {version[1] if version else ''} (Ice Lake)\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
