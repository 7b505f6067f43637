# SPDX-License-Identifier: Apache-2.0
"""clang-tidy, with the checks of .clang-tidy, over the library, its tools and the inference server:

    tidy.py BUILD [UNIT]...    the build folder, for its compile_commands.json; units of TOGETHER: these and no others

Files are checked as one source for the library and one for the programs, in a tenth of the time: nearly all of it goes to
the headers they share. What has no findings is skipped until a file or a check changes (.cache/clang-tidy).
"""

import hashlib
import json
import pathlib
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
TIDY = "clang-tidy-14"
# What is checked as one source: {name: modules}.
TOGETHER = {"library": ("kernels", "scheduler", "runtime"), "distributed": ("distributed",),
            "programs": ("tools/topology", "examples/inference_server", "examples/scaling", "examples/train_tiny"),
            "python/src": ("python/src",)}
MODULES = tuple(module for modules in TOGETHER.values() for module in modules)
# Files of one instruction set, which are all intrinsics; and coroutines, which Clang 14 does not find in the standard library of GCC 12.
LEFT_OUT = ("/x86_", "/arm_", "examples/inference_server/http_connection.cpp", "examples/inference_server/http_server.cpp")


def sources(build):
    """{file: the flags that affect its meaning}, for the modules' compiled files."""
    found = {}
    for entry in json.loads((build / "compile_commands.json").read_text()):
        path = pathlib.Path(entry["file"])
        if path.suffix != ".cpp" or not path.is_relative_to(ROOT):
            continue
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(tuple(f"{module}/" for module in MODULES)) and not any(part in name for part in LEFT_OUT):
            found.setdefault(name, flags(shlex.split(entry["command"])))
    return found


def flags(words):
    chosen = [word for word in words if word.startswith(("-I", "-D", "-std=", "-fopenmp"))]
    return chosen + [word for flag, path in zip(words, words[1:]) if flag == "-isystem" for word in (flag, path)]


def units(found):
    """[(name, files, flags)]: one entry for each run of clang-tidy."""
    files = {unit: [name for name in sorted(found) if name.startswith(tuple(f"{module}/" for module in modules))]
             for unit, modules in TOGETHER.items()}
    return [(unit, names, list(dict.fromkeys(joined(found[name] for name in names)))) for unit, names in files.items() if names]


def joined(lists):
    """The flags in order; "-isystem PATH" becomes one word."""
    for words in lists:
        following = iter(words)
        for word in following:
            yield f"-isystem{next(following)}" if word == "-isystem" else word


def key(names, options):
    """Of all that a result depends on, including the headers of every module."""
    read = {ROOT / name for name in names} | {ROOT / ".clang-tidy", pathlib.Path(__file__)}
    read |= {path for module in MODULES for suffix in ("*.h", "*.inc") for path in (ROOT / module).rglob(suffix)}
    digest = hashlib.sha256(subprocess.run([TIDY, "--version"], capture_output=True, check=True).stdout + repr(options).encode())
    for path in sorted(read):
        digest.update(path.as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def findings(build, unit, names, options):
    """clang-tidy's findings, "" if none."""
    seen = ROOT / ".cache" / "clang-tidy" / unit.replace("/", "_")
    now = key(names, options)
    if seen.is_file() and seen.read_text() == now:
        return ""
    folder = build / "tidy"
    folder.mkdir(exist_ok=True)
    together = folder / f"{unit.replace('/', '_')}.cpp"
    # Several programs: each has a main of its own.
    together.write_text("".join(f'#define main main_{i}\n#include "{ROOT / name}"\n#undef main\n' for i, name in enumerate(names)))
    # So that <kumiko/attention.h> and "runtime/attention.h" are one file. The build's <kumiko/...> are copies.
    public = folder / "kumiko"
    if not public.is_symlink():
        public.symlink_to(ROOT / "runtime")
    done = subprocess.run([TIDY, "--quiet", f"--config-file={ROOT / '.clang-tidy'}", str(together), "--", f"-I{folder}", *options],
                          text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode != 0 or done.stdout:
        return f"{unit}:\n{done.stdout}{'' if done.stdout else done.stderr}"
    seen.parent.mkdir(parents=True, exist_ok=True)
    seen.write_text(now)
    return ""


if __name__ == "__main__":
    folder, only = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:]
    what = [unit for unit in units(sources(folder)) if not only or unit[0] in only]
    assert len(what) >= (len(only) or 3), f"{folder} has too few of the units: {[unit for unit, _, _ in what]}"
    texts = [text for unit in what if (text := findings(folder, *unit))]
    sys.exit("\n".join(texts) or 0)
