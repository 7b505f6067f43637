# SPDX-License-Identifier: Apache-2.0
"""Builds a copy of the sources once, and then single mutants of it.

Programs stay linked as CMake has them, from objects and static libraries, because tests put functions of their own in the
place of the library's (--wrap) and compile some of its files a second time. Only the changed objects differ.
"""

import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

from mutants import ROOT


def run(command, **options):
    return subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def checked(*command, **options):
    done = run(command, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}")
    return done.stdout


class Build:
    """A copy of the tracked and new files in folder/source, with a build of its own in folder/build."""

    def __init__(self, folder, programs, jobs, sanitizer=""):
        self.folder, self.source, self.build = folder, folder / "source", folder / "build"
        self.files = [name for name in checked("git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
                      if (ROOT / name).is_file()]
        copy_files(self.files, ROOT, self.source)
        self.launcher = ["ccache"] if shutil.which("ccache") else []
        # -O1 takes half of -O3's time to compile; the promised bits do not depend on it.
        checked("cmake", "-S", self.source, "-B", self.build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DKUMIKO_BUILD_BENCH=OFF", f"-DKUMIKO_SANITIZE={sanitizer}",
                "-DKUMIKO_BUILD_EXAMPLES=OFF", "-DCMAKE_GTEST_DISCOVER_TESTS_DISCOVERY_MODE=PRE_TEST", f"-DPython3_EXECUTABLE={sys.executable}",
                *(f"-DCMAKE_{language}_FLAGS_RELEASE=-O1 -DNDEBUG" for language in ("C", "CXX")),
                *(f"-DCMAKE_{language}_COMPILER_LAUNCHER=ccache" for language in ("C", "CXX") if self.launcher))
        targets = self.ninja("-t", "targets", "all")
        self.executables = set(re.findall(r"^(\S+): C(?:XX)?_EXECUTABLE_LINKER", targets, re.M))
        if unknown := [program for program in programs if program not in self.executables]:
            sys.exit(f"killed_by: there is no program {', '.join(unknown)}; expected FOLDER.PROGRAM of tests/FOLDER/CMakeLists.txt")
        self.ninja("-j", jobs, *programs)
        self.compile_commands = {}
        for entry in json.loads((self.build / "compile_commands.json").read_text()):
            arguments = shlex.split(entry["command"])
            self.compile_commands[arguments[arguments.index("-o") + 1]] = arguments
        self.made_from = self._made_from()
        self.programs = {}
        for program in programs:
            self.programs[program] = Program(self, program)
            for second in self.programs[program].starts:
                self.programs[second] = Program(self, second)

    def ninja(self, *arguments):
        return checked("ninja", "-C", self.build, *arguments)

    def _made_from(self):
        """For each object the files it was made from."""
        result, files = {}, set()
        for line in self.ninja("-t", "deps").splitlines():
            if ": #deps" in line:
                files = result.setdefault(line.partition(": #deps")[0], set())
            elif line.startswith("    "):
                files.add(os.path.normpath(self.build / line.strip()))
        return result

    def copies_of(self, name):
        """Where the build looks for a file of the project: the public headers stand in build/include, too."""
        staged = self.build / "include/kumiko" / pathlib.Path(name).name
        return [self.source / name] + ([staged] if name.startswith("runtime/") and staged.exists() else [])


class Program:
    """How one is linked."""

    def __init__(self, build, name):
        commands = build.ninja("-t", "commands", "-s", name).split(" && ")
        self.link = shlex.split(next(command for command in commands if f" -o {name} " in command))
        self.objects = [part for part in self.link if part in build.compile_commands]
        self.members = {}  # Of each static library: its objects.
        for part in self.link:
            if part.endswith(".a") and not part.startswith("/"):
                self.members[part] = [i for i in build.ninja("-t", "inputs", part).split() if i in build.compile_commands]
                self.objects += self.members[part]
        # The programs that this one starts, by paths that are compiled into some of its objects.
        defined = {compiled: " ".join(build.compile_commands[compiled]) for compiled in self.objects}
        self.starts = [second for second in build.executables if any(f'{build.build}/{second}"' in text for text in defined.values())]
        self.starters = [compiled for compiled, text in defined.items() if any(f'{build.build}/{second}"' in text for second in self.starts)]


@dataclasses.dataclass
class Result:
    noticed: bool
    text: str
    skipped: bool = False
    seconds: float = 0


class Worker:
    """Tries one mutant at a time, in a folder of its own beside the build's."""

    def __init__(self, build, number):
        self.build = build
        self.folder = build.folder / f"worker{number}"
        copy_files(build.files, build.source, self.folder / "source")
        shutil.copytree(build.build / "include", self.folder / "include", dirs_exist_ok=True)

    def run_unchanged(self, program, *test):
        return run_test(self.build.build / program, *test, 600)

    def try_mutant(self, mutant, unchanged):
        """How it ended, and what there is to say about that."""
        if unchanged.skipped:
            return "test is skipped on this machine", ""
        program, *test = mutant.test
        if error := self.link_mutant(mutant, program):
            return "does not compile", f":\n{error[-2000:]}"
        result = run_test(self.folder / program, *test, 15 + 20 * unchanged.seconds)
        return ("killed", f" by {result.text}") if result.noticed else ("SURVIVED", f" {mutant.killed_by}")

    def link_mutant(self, mutant, program):
        """Puts the program and those that it starts into the worker's folder. Returns what compiler or linker said, nothing if it went well."""
        places = self.build.copies_of(mutant.file)
        for place in places:
            self._here(place).write_text(mutant.source(self.build.source).replace(mutant.find, mutant.replace))
        try:
            return self._link(program, {str(place) for place in places})
        finally:
            for place in places:
                self._here(place).write_text(mutant.source(self.build.source))

    def _here(self, place):
        if place.is_relative_to(self.build.source):
            return self.folder / "source" / place.relative_to(self.build.source)
        return self.folder / place.relative_to(self.build.build)

    def _link(self, program, changed_files):
        """What compiler or linker said; nothing if the programs are there."""
        names = [program, *self.build.programs[program].starts]
        changed = {}
        for name in names:
            for compiled in self.build.programs[name].objects:
                is_changed = self.build.made_from.get(compiled, set()) & changed_files
                if compiled in changed or not (is_changed or compiled in self.build.programs[program].starters):
                    continue
                changed[compiled] = str(self.folder / f"{len(changed)}.o")
                done = run(self._compile_command(compiled, changed[compiled]), cwd=self.folder)
                if done.returncode != 0:
                    return done.stdout
        if not set(changed) - set(self.build.programs[program].starters):
            return f"{program} is not made from {', '.join(changed_files)}"
        for name in names:
            done = run(self._link_command(self.build.programs[name], changed, self.folder / name), cwd=self.build.build)
            if done.returncode != 0:
                return done.stdout
        return ""

    # With relative paths, so that ccache knows the object again whichever worker made it.
    def _compile_command(self, compiled, output):
        arguments = list(self.build.compile_commands[compiled])
        arguments[arguments.index("-o") + 1] = output
        for place, name in ((self.build.source, "source"), (self.build.build / "include", "include")):
            arguments = [re.sub(rf"^(-I|-isystem|){re.escape(str(place))}(?=/|$)", rf"\g<1>{name}", a) for a in arguments]
        # What starts another program starts the mutant's.
        arguments = [a.replace(f'="{self.build.build}/', f'="{self.folder}/') for a in arguments]
        return [*self.build.launcher, *arguments]

    @staticmethod
    def _link_command(program, changed, output):
        output.parent.mkdir(parents=True, exist_ok=True)
        command = []
        for part in program.link:
            # A member that stands before its library is not looked for in it. ninja counts a library's libraries among its inputs.
            members = [changed[member] for member in program.members.get(part, []) if member in changed]
            command += [member for member in members if member not in command]
            command.append(changed.get(part, part))
        command[command.index("-o") + 1] = str(output)
        return command


def run_test(program, filter_, settings, timeout_s):
    environment = {**os.environ, "GTEST_FAIL_FAST": "1", "GTEST_COLOR": "no", "TSAN_OPTIONS": "halt_on_error=1", **dict(s.split("=", 1) for s in settings)}
    launcher = []
    if ranks := environment.pop("RANKS", ""):  # as tests/distributed/CMakeLists.txt starts them
        launcher = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1", "-n", ranks]
        environment |= {"KUMIKO_NUM_THREADS": "1", "KUMIKO_BIND": "none"}
    process = subprocess.Popen([*launcher, program, *([f"--gtest_filter={filter_}"] if filter_ else [])], cwd=program.parent, env=environment,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    seconds, ended = 0, False
    while not ended and seconds < timeout_s:
        begin = time.monotonic()
        try:
            output = process.communicate(timeout=1)[0]
            ended = True
        except subprocess.TimeoutExpired:
            pass
        seconds += min(time.monotonic() - begin, 2)  # not the hours for which this process and the test were both stopped
    if not ended:
        os.killpg(process.pid, signal.SIGKILL)
        output = process.communicate()[0]
    how = f", no end within {timeout_s:.0f} s" if not ended else f", signal {-process.returncode}" if process.returncode < 0 else ""
    return result_of(output.decode(errors="replace"), program.name, ended and process.returncode == 0, how, seconds)


def result_of(output, name, passed, how="", seconds=0):
    """`name`: of the program; `how`: what its end was like, if that says more than the tests' output."""
    if passed:
        if "[==========] Running 0 tests" in output:
            return Result(True, "no test fits the filter")
        return Result(False, "", "[  SKIPPED ]" in output and "[       OK ]" not in output, seconds)
    failed = re.findall(r"^\[  FAILED  \] ([^\s,]+)", output, re.M) or re.findall(r"^\[ RUN      \] (\S+)", output, re.M)[-1:]
    if found := re.search(r"^WARNING: ThreadSanitizer: (.*?) \(pid", output, re.M):
        how += f", {found[1]}"
    return Result(True, f"{failed[0] if failed else name}{how}", seconds=seconds)


def copy_files(names, origin, to):
    """Leaves nothing else in `to`, and what is there already as it is."""
    wanted = {to / name for name in names}
    for path in list(to.rglob("*")) if to.exists() else []:
        if path.is_file() and path not in wanted:
            path.unlink()
    for name in names:
        data, path = (origin / name).read_bytes(), to / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != data:  # an untouched file is not compiled again
            path.write_bytes(data)
            path.chmod((origin / name).stat().st_mode)
