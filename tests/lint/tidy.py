# SPDX-License-Identifier: Apache-2.0
"""clang-tidy, with the checks of .clang-tidy, over the library, its tools and the inference server:

    tidy.py BUILD [ROOM]...    the build folder, for its compile_commands.json; rooms: these and no others

The files of a room are checked as one source, in an eighth of the time: nearly all of it goes to the headers they share.
A room without findings is skipped until a file or a check changes (.cache/clang-tidy).
"""

import hashlib
import json
import pathlib
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
TIDY = "clang-tidy-14"
ROOMS = ("kernels", "scheduler", "runtime", "tools/topology", "examples/inference_server", "examples/scaling", "python/src")
# Checked alone: another file of the room uses one of its names for something else.
APART = {"kernels/softmax/reference.cpp", "runtime/merge.cpp", "runtime/validate.cpp", "runtime/validate_softmax_pv.cpp",
         "examples/inference_server/model_config.cpp", "examples/inference_server/safetensors_header.cpp"}
# Files of one instruction set, which are all intrinsics; and coroutines, which Clang 14 does not find in the standard library of GCC 12.
LEFT_OUT = ("/x86_", "/arm_", "examples/inference_server/http_connection.cpp", "examples/inference_server/http_server.cpp")


def sources(build):
    """{file: the flags that affect its meaning}, for the rooms' compiled files."""
    found = {}
    for entry in json.loads((build / "compile_commands.json").read_text()):
        path = pathlib.Path(entry["file"])
        if path.suffix != ".cpp" or not path.is_relative_to(ROOT):
            continue
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(tuple(f"{room}/" for room in ROOMS)) and not any(part in name for part in LEFT_OUT):
            found.setdefault(name, flags(shlex.split(entry["command"])))
    return found


def flags(words):
    chosen = [word for word in words if word.startswith(("-I", "-D", "-std=", "-fopenmp"))]
    return chosen + [word for flag, path in zip(words, words[1:]) if flag == "-isystem" for word in (flag, path)]


def units(found):
    """[(name, files, flags)]: one entry for each run of clang-tidy."""
    rooms = {}
    for name in sorted(found):
        room = name if name in APART else next(room for room in ROOMS if name.startswith(f"{room}/"))
        rooms.setdefault(room, []).append(name)
    return [(room, names, list(dict.fromkeys(joined(found[name] for name in names)))) for room, names in rooms.items()]


def joined(lists):
    """The flags in order; "-isystem PATH" becomes one word."""
    for words in lists:
        following = iter(words)
        for word in following:
            yield f"-isystem{next(following)}" if word == "-isystem" else word


def key(names, options):
    """Of all that a result depends on, including the headers of every room."""
    read = {ROOT / name for name in names} | {ROOT / ".clang-tidy", pathlib.Path(__file__)}
    read |= {path for room in ROOMS for suffix in ("*.h", "*.inc") for path in (ROOT / room).rglob(suffix)}
    digest = hashlib.sha256(subprocess.run([TIDY, "--version"], capture_output=True, check=True).stdout + repr(options).encode())
    for path in sorted(read):
        digest.update(path.as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def findings(build, room, names, options):
    """clang-tidy's findings, "" if none."""
    seen = ROOT / ".cache" / "clang-tidy" / room.replace("/", "_")
    now = key(names, options)
    if seen.is_file() and seen.read_text() == now:
        return ""
    together = build / "tidy" / f"{room.replace('/', '_')}.cpp"
    together.parent.mkdir(exist_ok=True)
    together.write_text("".join(f'#include "{ROOT / name}"\n' for name in names))
    done = subprocess.run([TIDY, "--quiet", f"--config-file={ROOT / '.clang-tidy'}", str(together), "--", *options], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode != 0 or done.stdout:
        return f"{room}:\n{done.stdout}{'' if done.stdout else done.stderr}"
    seen.parent.mkdir(parents=True, exist_ok=True)
    seen.write_text(now)
    return ""


if __name__ == "__main__":
    folder, only = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:]
    what = [unit for unit in units(sources(folder)) if not only or unit[0] in only]
    assert len(what) >= (len(only) or 4), f"{folder} has too few of the rooms: {[room for room, _, _ in what]}"
    texts = [text for unit in what if (text := findings(folder, *unit))]
    sys.exit("\n".join(texts) or 0)
