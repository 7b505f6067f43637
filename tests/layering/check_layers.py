# SPDX-License-Identifier: Apache-2.0
"""Which module may include which, and what only one file may touch (docs/architecture.md, "Modules").

    check_layers.py ROOT        prints one line per violation; exit status 1 if there is any

Uses only the standard library, so that it runs wherever the tests are built.
"""

import re
import sys
from pathlib import Path

# Module -> modules whose headers it may include. A module that is not in the set is above or beside it.
MAY_INCLUDE = {
    "kernels": {"kernels"},
    "scheduler": {"scheduler"},
    "runtime": {"runtime", "kernels", "scheduler"},
    "distributed": {"distributed"},  # and <kumiko/...>, as a user
    "examples": {"examples"},  # examples use the library as a user does: <kumiko/...>
    "python": {"python"},
    "tools": {"tools", "bench", "runtime", "kernels", "scheduler"},
    "bench": {"bench", "tests", "runtime", "kernels", "scheduler"},
    "tests": {"tests", "bench", "distributed", "examples", "tools", "runtime", "kernels", "scheduler"},
}
# What examples share with the tools: how a program writes its files.
SHARED_BY_PROGRAMS = {"tools/write_file.h"}
LIBRARY = ("kernels", "scheduler", "runtime", "distributed")
PUBLIC_HEADERS = {
    "runtime/attention.h", "runtime/attention_backward.h", "runtime/attention_backward_c.h", "runtime/attention_c.h",
    "runtime/key_parts.h", "runtime/kv_append.h", "runtime/kv_append_c.h", "runtime/status.h", "runtime/stream.h", "runtime/stream_c.h",
}  # fmt: skip

# The programs of bench/ that use Google Benchmark.
BENCHMARKS = tuple(f"bench/{name}_bench.cpp" for name in ("attention", "backward", "machine", "call", "pipelines", "plan", "scaling", "serving", "trace"))
# System header -> the files (or folders, with a slash) that may include it.
HEADER_OWNERS = [
    (re.compile(r"hwloc(\.h|/.*)"), ("scheduler/topology_hwloc.cpp",)),
    (re.compile(r"numa(if)?\.h"), ("scheduler/memory.cpp", "tests/emulated_numa/", "tests/scheduler/")),
    (re.compile(r"omp\.h"), ("scheduler/executor_openmp.cpp", "scheduler/topology_hwloc.cpp", "examples/", "tests/", "bench/")),
    (re.compile(r"(oneapi/)?tbb(\.h|/.*)"), ("scheduler/executor_tbb.cpp", "tests/", "bench/")),
    # The files that tools/bench shares with the benchmarks are built without that library.
    (re.compile(r"benchmark/.*"), ("bench/benchmark_rounds.h", "bench/speedup.h", "bench/kernels_bench/", *BENCHMARKS)),
    (re.compile(r"nanobind/.*|Python\.h"), ("python/",)),
    (re.compile(r"mpi\.h"), ("distributed/distributed.h", "distributed/distributed_c.h", "distributed/transport.h")),
    (re.compile(r"(\w*mmintrin|immintrin|x86intrin|arm_neon|arm_sve)\.h"), ("kernels/", "tests/", "bench/")),
]
# Headers that kernels must not include: threads, locks, streams.
KERNELS_MAY_NOT_INCLUDE = re.compile(r"(thread|mutex|condition_variable|future|iostream|fstream|omp\.h|pthread\.h)")
# Words in code (comments and strings are blanked first) -> the only file of the library that may use them.
WORD_OWNERS = [
    (re.compile(r"\b(?:secure_)?getenv\s*\(|\benviron\b"), "getenv", {"runtime/config.cpp"}),
    (re.compile(r"\b(?:abort|exit|_Exit|quick_exit)\s*\("), "ending the process", set()),
]

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)
NOT_CODE = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)
SUFFIXES = {".h", ".hpp", ".inc", ".c", ".cpp", ".S"}


def sources(root: Path):
    for module in sorted(MAY_INCLUDE):
        for path in sorted((root / module).rglob("*")):
            if path.suffix in SUFFIXES and path.is_file():
                yield module, path


def project_target(root: Path, path: Path, name: str):
    """The project file an include names, relative to the root, or None for a system header."""
    for base in (path.parent, root):
        target = (base / name).resolve()
        if target.is_file() and target.is_relative_to(root):
            return target.relative_to(root).as_posix()
    return None


def may(owners, where: str) -> bool:
    return any(where == owner or (owner.endswith("/") and where.startswith(owner)) for owner in owners)


def check_file(root: Path, module: str, path: Path):
    where = path.relative_to(root).as_posix()
    text = path.read_text(encoding="utf-8")

    def at(match):
        return f"{where}:{text.count(chr(10), 0, match.start()) + 1}"

    for include in INCLUDE.finditer(re.sub(r"/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m[0]), text, flags=re.DOTALL)):
        quote, name = include.groups()
        target = project_target(root, path, name) if quote == '"' else None
        # A path that starts with a module's name counts for that module even if the file is missing or the brackets are of
        # the wrong kind.
        first = (target or name).split("/")[0]
        if target is None and quote == "<" and not (root / name).is_file():
            first = None
        is_shared = module == "examples" and target in SHARED_BY_PROGRAMS
        if first in MAY_INCLUDE and first not in MAY_INCLUDE[module] and not is_shared:
            yield f"{at(include)}: {module} may not include {first} ({name})"
        if where in PUBLIC_HEADERS and quote == '"' and target not in PUBLIC_HEADERS:
            yield f"{at(include)}: a public header may include public headers only, not {name}"
        for header, owners in HEADER_OWNERS:
            if header.fullmatch(name) and not may(owners, where):
                yield f"{at(include)}: only {', '.join(owners)} may include {name}"
        if module == "kernels" and KERNELS_MAY_NOT_INCLUDE.fullmatch(name):
            yield f"{at(include)}: a kernel has no threads and no streams ({name})"
    if module in LIBRARY:
        code = NOT_CODE.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)
        for word, meaning, owners in WORD_OWNERS:
            for match in word.finditer(code):
                if where not in owners:
                    yield f"{at(match)}: {meaning} is for {', '.join(sorted(owners)) or 'no file of the library'}"


def check(root: Path):
    root = root.resolve()
    found = list(sources(root))
    violations = [line for module, path in found for line in check_file(root, module, path)]
    return len(found), violations


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: check_layers.py ROOT")
    count, violations = check(Path(sys.argv[1]))
    for line in violations:
        print(line)
    if count == 0:
        sys.exit(f"no sources under {sys.argv[1]}")
    print(f"{count} files, {len(violations)} violations")
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
