# SPDX-License-Identifier: Apache-2.0
"""Builds the Python package's wheel on the installed library, puts inside what it links, and installs it in WORK/site for python/tests:

    wheel_test.py CMAKE BUILD WORK CC CXX [LAUNCHER]
"""

import re
import shutil
import sys
import sysconfig
import unittest
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "install"))
from package import Package, project_version  # noqa: E402

PYTHON = [sys.executable, "-B", "-m"]
# Their ABI is that of the interpreter up to 3.11, stable from 3.12 on.
TAG = "cp312-abi3" if sys.version_info >= (3, 12) else f"cp3{sys.version_info[1]}-cp3{sys.version_info[1]}"
MODULE = "_core.abi3.so" if sys.version_info >= (3, 12) else f"_core{sysconfig.get_config_var('EXT_SUFFIX')}"

wheel = work = None


def build(cmake, tree, folder, cc, cxx, launcher=""):
    """The wheel as it is published."""
    package = Package(cmake, Path(tree), folder / "library", "static", cc, cxx)
    for made in ("plain", "repaired", "site"):
        shutil.rmtree(folder / made, ignore_errors=True)
    settings = {"cmake.source-dir": "python", "build-dir": folder / "wheel", "cmake.define.CMAKE_PREFIX_PATH": package.prefix,
                "cmake.define.CMAKE_CXX_COMPILER": cxx, "cmake.define.CMAKE_CXX_COMPILER_LAUNCHER": launcher,
                "cmake.define.CMAKE_EXPORT_COMPILE_COMMANDS": "ON", "cmake.define.CMAKE_COMPILE_WARNING_AS_ERROR": "ON"}
    offline = ["--no-index", "--no-deps", "--disable-pip-version-check"]
    package.run([*PYTHON, "pip", "wheel", ROOT, *offline, "--no-build-isolation", "-w", folder / "plain",
                 *(word for key, value in settings.items() for word in ("--config-settings", f"{key}={value}"))])
    plain, = (folder / "plain").glob("*.whl")
    scripts = sysconfig.get_path("scripts")
    package.run(["env", f"PATH={scripts}:/usr/bin:/bin", *PYTHON, "auditwheel", "repair", plain, "-w", folder / "repaired"])
    repaired, = (folder / "repaired").glob("*.whl")
    package.run([*PYTHON, "pip", "install", repaired, *offline, "--no-compile", "--target", folder / "site"])
    return repaired


class Wheel(unittest.TestCase):
    def test_the_tag_says_where_it_runs(self):
        self.assertRegex(wheel.name, rf"^kumiko-{re.escape(project_version())}-{TAG}-manylinux_2_\d+_\w+\.whl$")

    def test_it_has_the_package_and_nothing_else(self):
        names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
        inside = {name.removeprefix("kumiko/") for name in names if name.startswith("kumiko/")}
        package = ROOT / "python" / "kumiko"
        sources = {str(path.relative_to(package)) for path in package.rglob("*.py")}
        self.assertGreater(len(sources), 3)
        self.assertEqual(inside, sources | {"py.typed", "_core.pyi", MODULE})
        other = {name.split("/")[0] for name in names} - {"kumiko"}
        self.assertEqual(other, {"kumiko.libs", f"kumiko-{project_version()}.dist-info"})

    def test_it_brings_what_it_links(self):
        libraries = {re.match(r"lib[a-z]+", Path(name).name)[0] for name in zipfile.ZipFile(wheel).namelist() if re.match(r"kumiko\.libs/.", name)}
        self.assertLessEqual({"libgomp", "libhwloc", "libnuma", "libtbb"}, libraries)

    def test_it_needs_no_other_package(self):
        text = zipfile.ZipFile(wheel).read(f"kumiko-{project_version()}.dist-info/METADATA").decode()
        metadata = Parser().parsestr(text)
        self.assertEqual((metadata["Name"], metadata["Version"], metadata["License-Expression"]), ("kumiko", project_version(), "Apache-2.0"))
        self.assertEqual(metadata["Requires-Python"], ">=3.11")
        self.assertIsNone(metadata["Requires-Dist"])
        self.assertIn("# Python", metadata.get_payload())

    def test_the_stub_names_the_arguments(self):
        stub = (work / "site" / "kumiko" / "_core.pyi").read_text()
        for words in ("class Context:", "num_threads: int | None = None", "class DomainMemory:", "def attention(q: object | None, k:"):
            self.assertIn(words, stub)


if __name__ == "__main__":
    work = Path(sys.argv[3]).resolve()
    wheel = build(sys.argv[1], sys.argv[2], work, *sys.argv[4:7])
    unittest.main(argv=sys.argv[:1], verbosity=2)
