# SPDX-License-Identifier: Apache-2.0
"""Installs kumiko into a fresh prefix and builds programs against it, the way its users do. Shared by the tests beside it."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


class Package:
    """One installed tree. `variant` is "static" (installed from the build under test) or "shared" (built here)."""

    def __init__(self, cmake: str, build: Path, work: Path, variant: str, cc: str, cxx: str):
        self.cmake, self.work, self.variant, self.cc, self.cxx = cmake, work, variant, cc, cxx
        shutil.rmtree(work / "first", ignore_errors=True)
        shutil.rmtree(work / "moved", ignore_errors=True)
        work.mkdir(parents=True, exist_ok=True)
        # Neither the configured install prefix nor the first install location may matter.
        first = work / "first"
        if variant == "shared":
            build = work / "build"
            # -O0, precompiled headers and several files at a time: these tests check linking, and it is built sooner.
            self.run([cmake, "-S", ROOT, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON",
                      *(f"-DCMAKE_{language}_FLAGS_RELEASE=-O0 -DNDEBUG" for language in ("C", "CXX")),
                      "-DKUMIKO_BUILD_EXAMPLES=OFF", "-DKUMIKO_PRECOMPILE_HEADERS=ON", "-DCMAKE_UNITY_BUILD=ON", f"-DCMAKE_C_COMPILER={cc}", f"-DCMAKE_CXX_COMPILER={cxx}"])
            self.run([cmake, "--build", build])
        self.run([cmake, "--install", build, "--prefix", first])
        self.prefix = work / "moved"
        first.rename(self.prefix)
        self.libdir = next(self.prefix.rglob("pkgconfig")).parent

    def environment(self):
        return {**os.environ, "PKG_CONFIG_PATH": str(self.libdir / "pkgconfig"), "LD_LIBRARY_PATH": str(self.libdir)}

    def run(self, command, **options):
        """The command's output; an AssertionError with all of it if the command fails."""
        environment = self.environment() if hasattr(self, "libdir") else None
        done = subprocess.run([str(word) for word in command], env=environment, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
        if done.returncode != 0:
            raise AssertionError(f"{' '.join(map(str, command))}\nended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def cmake_configure(self, source: Path, name: str):
        build = self.work / name
        shutil.rmtree(build, ignore_errors=True)
        self.run([self.cmake, "-S", source, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
                  f"-DCMAKE_PREFIX_PATH={self.prefix}", f"-DCMAKE_C_COMPILER={self.cc}", f"-DCMAKE_CXX_COMPILER={self.cxx}"])
        return build

    def cmake_program(self, source: Path, name: str):
        """Builds `source` with find_package(kumiko) and returns the program called `consumer`."""
        build = self.cmake_configure(source, name)
        self.run([self.cmake, "--build", build])
        return build / "consumer"

    def pkg_config(self, *arguments):
        static = ["--static"] if self.variant == "static" else []
        return shlex.split(self.run(["pkg-config", *static, *arguments, "kumiko"]))

    def pkg_config_program(self, source: Path, name: str):
        """Builds one C99 file with the flags of kumiko.pc."""
        program = self.work / name
        self.run([self.cc, "-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", "-O1", source, "-o", program,
                  *self.pkg_config("--cflags", "--libs"), "-lm"])
        return program


def project_version():
    return re.search(r"project\(kumiko VERSION (\S+)", (ROOT / "CMakeLists.txt").read_text())[1]
