#!/usr/bin/env python3
"""Tries one-line changes of the library and says for each which test noticed:

    tests/mutations/run.py                   all of tests/mutations/*.toml, in a copy of the sources under --folder
    tests/mutations/run.py 'pool_.*' convert-drops-scale

Each mutant is built into the programs of the tests it names, and these are run; a test that fails, or takes longer than
--timeout, has killed it. Ends with the survivors, and status 1 if there are any. Takes 10 to 30 s a mutant.
"""

import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys

from mutants import ROOT, faults, load


def run(*command, **options):
    return subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def checked(*command):
    done = run(*command)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}")
    return done.stdout


class Build:
    """A copy of the tracked files, with a build of its own."""

    def __init__(self, folder):
        self.source, self.build = folder / "source", folder / "build"
        self.source.mkdir(parents=True, exist_ok=True)
        files = checked("git", "-C", ROOT, "ls-files").splitlines()
        for name in files:
            self.write(name, (ROOT / name).read_bytes())
        checked("cmake", "-S", self.source, "-B", self.build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DKUMIKO_BUILD_BENCH=OFF",
                "-DKUMIKO_BUILD_EXAMPLES=OFF", f"-DPython3_EXECUTABLE={sys.executable}",
                *([f"-DCMAKE_{language}_COMPILER_LAUNCHER=ccache" for language in ("C", "CXX")] if shutil.which("ccache") else []))
        checked("cmake", "--build", self.build)
        listed = json.loads(checked("ctest", "--test-dir", self.build, "--show-only=json-v1"))["tests"]
        self.commands = {test["name"]: test for test in listed}

    def write(self, name, data):
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != data:  # an untouched file is not compiled again
            path.write_bytes(data)
            path.chmod((ROOT / name).stat().st_mode)

    def tests(self, killed_by):
        """ctest names, and the filter for their programs."""
        start, _, filter_ = killed_by.partition(":")
        exact = [start] if start in self.commands else [name for name in self.commands if name.startswith(start)]
        return exact, filter_

    def killer(self, mutant, timeout_s):
        """Name of the test that noticed; None when none did."""
        names, filter_ = self.tests(mutant.killed_by)
        if not names:
            sys.exit(f"{mutant.id}: there is no test {mutant.killed_by}")
        programs = {pathlib.Path(part).relative_to(self.build) for name in names for part in self.commands[name]["command"]
                    if pathlib.Path(part).is_relative_to(self.build) and pathlib.Path(part).is_file()}
        built = run("ninja", "-C", self.build, *programs)
        if built.returncode != 0:
            sys.exit(f"{mutant.id} does not compile:\n{built.stdout[-2000:]}")
        for name in names:
            command = self.commands[name]["command"] + ([f"--gtest_filter={filter_}"] if filter_ else [])
            properties = {p["name"]: p["value"] for p in self.commands[name].get("properties", [])}
            environment = ["env", *properties.get("ENVIRONMENT", [])]
            try:
                if run(*environment, *command, cwd=properties.get("WORKING_DIRECTORY"), timeout=timeout_s).returncode != 0:
                    return name
            except subprocess.TimeoutExpired:
                return f"{name} (no end within {timeout_s} s)"
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="*", help="regular expressions; without one, all")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / ".cache/mutations", help="for the copy and its build")
    parser.add_argument("--timeout", type=float, default=120, help="seconds for a test")
    options = parser.parse_args()
    mutants = load()
    if wrong := list(faults(mutants)):
        sys.exit("\n".join(wrong))
    chosen = [m for m in mutants if not m.equivalent and (not options.ids or any(re.fullmatch(i, m.id) for i in options.ids))]
    print(f"building the sources as they are in {options.folder}", flush=True)
    build = Build(options.folder.resolve())
    survivors = []
    for number, mutant in enumerate(chosen, 1):
        build.write(mutant.file, mutant.source().replace(mutant.find, mutant.replace).encode())
        try:
            killer = build.killer(mutant, options.timeout)
        finally:
            build.write(mutant.file, mutant.source().encode())
        print(f"{number}/{len(chosen)} {mutant.id}: {'killed by ' + killer if killer else 'SURVIVED'}", flush=True)
        survivors += [] if killer else [mutant.id]
    print(f"{len(chosen) - len(survivors)} killed, {len(survivors)} survived{': ' if survivors else ''}{', '.join(survivors)}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
