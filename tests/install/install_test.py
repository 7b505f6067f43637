# SPDX-License-Identifier: Apache-2.0
"""install + out-of-tree consumers: find_package from C++, pkg-config from C.

    install_test.py CMAKE BUILD WORK static|shared CC CXX
"""

import re
import sys
import unittest
from pathlib import Path

from package import HERE, ROOT, Package, project_version

package = None


def has_mpi():
    return any(package.libdir.rglob("kumikoMpiTargets.cmake"))


class Install(unittest.TestCase):
    def test_headers_and_nothing_else_is_public(self):
        found = {p.relative_to(package.prefix / "include").as_posix() for p in (package.prefix / "include").rglob("*") if p.is_file()}
        names = ("attention", "attention_backward", "attention_backward_c", "attention_c", "key_parts", "kv_append", "kv_append_c", "status",
                 "stream", "stream_c", *(("cost_model", "distributed", "distributed_c") if has_mpi() else ()))
        self.assertEqual(found, {f"kumiko/{name}.h" for name in names})

    def test_topology_runs_where_it_was_moved_to(self):
        program = package.prefix / "bin" / "kumiko-topology"
        self.assertEqual(package.run([program, "--version"]).strip(), f"kumiko {project_version()}")
        self.assertIn("domain 3: NUMA node 3", package.run([program, "--topology", "numa:4 core:12 pu:1"]))

    def test_benchmark_runs_where_it_was_moved_to(self):
        program = package.prefix / "bin" / "kumiko-bench"
        self.assertEqual(package.run([program, "--version"]).strip(), f"kumiko {project_version()}")
        said = package.run([program, "--q-len", "32", "--head-dim", "32", "--threads", "1", "--passes", "1"])
        self.assertIn("every row right by fp64", said)

    def test_tuning_runs_where_it_was_moved_to(self):
        program = package.prefix / "bin" / "kumiko-tune"
        self.assertEqual(package.run([program, "--version"]).strip(), f"kumiko {project_version()}")

    def test_library_is_of_the_wanted_kind(self):
        libraries = {p.name for p in package.libdir.glob("libkumiko*")}
        version = project_version()
        minor = version.rsplit(".", 1)[0]
        names = ["libkumiko", *(["libkumiko_mpi"] if has_mpi() else [])]
        suffixes = {"static": [".a"], "shared": [".so", f".so.{minor}", f".so.{version}"]}[package.variant]
        self.assertEqual(libraries, {name + suffix for name in names for suffix in suffixes})

    def test_cpp_consumer_with_find_package(self):
        output = package.run([package.cmake_program(HERE / "consumer_cpp", "consumer_cpp")])
        self.assertIn("largest error", output)

    def test_cpp_consumer_over_mpi(self):
        if not has_mpi():
            self.skipTest("built without MPI")
        output = package.run([package.cmake_program(HERE / "consumer_mpi", "consumer_mpi")])
        self.assertIn("rank 0 of 1: right\nranks: 1, rows zigzag\n", output)

    def test_mpi_in_a_project_of_cpp_alone(self):
        if not has_mpi():
            self.skipTest("built without MPI")
        source = package.work / "only_cpp"
        source.mkdir(exist_ok=True)
        text = (HERE / "consumer_mpi" / "CMakeLists.txt").read_text()
        self.assertIn("LANGUAGES C CXX", text)
        (source / "CMakeLists.txt").write_text(text.replace("LANGUAGES C CXX", "LANGUAGES CXX"))
        (source / "main.cpp").write_text((HERE / "consumer_mpi" / "main.cpp").read_text())
        self.assertIn("rank 0 of 1: right\n", package.run([package.cmake_program(source, "only_cpp_build")]))

    def test_mpi_is_a_component_that_need_not_be_there(self):
        targets = package.run([package.cmake_program(HERE / "consumer_cpp", "consumer_without_mpi")])
        self.assertIn("largest error", targets)
        linked = package.run(["ldd", package.work / "consumer_without_mpi" / "consumer"])
        self.assertNotIn("libmpi", linked)

    def test_c_consumer_with_pkg_config(self):
        output = package.run([package.pkg_config_program(HERE / "consumer_c" / "main.c", "consumer_c")])
        self.assertIn(f"kumiko {project_version()} from C", output)

    def test_versions_agree(self):
        self.assertEqual(package.run(["pkg-config", "--modversion", "kumiko"]).strip(), project_version())

    def test_another_minor_version_is_refused(self):
        source = package.work / "future"
        source.mkdir(exist_ok=True)
        text = (HERE / "consumer_cpp" / "CMakeLists.txt").read_text()
        (source / "CMakeLists.txt").write_text(text.replace("find_package(kumiko 0.1 ", "find_package(kumiko 0.9 "))
        (source / "main.cpp").write_text("int main() {}\n")
        with self.assertRaisesRegex(AssertionError, r"(?s)requested\s+version \"0.9\""):
            package.cmake_configure(source, "future_build")

    def test_project_with_c_alone(self):
        source = package.work / "only_c"
        source.mkdir(exist_ok=True)
        text = (HERE / "consumer_cpp" / "CMakeLists.txt").read_text()
        (source / "CMakeLists.txt").write_text(text.replace("LANGUAGES C CXX", "LANGUAGES C").replace("main.cpp", "main.c"))
        (source / "main.c").write_text((HERE / "consumer_c" / "main.c").read_text())
        if package.variant == "static":
            with self.assertRaisesRegex(AssertionError, r"static libkumiko\s+needs\s+the\s+language\s+CXX"):
                package.cmake_configure(source, "only_c_build")
        else:
            text = (source / "CMakeLists.txt").read_text()
            (source / "CMakeLists.txt").write_text(text + "target_link_libraries(consumer PRIVATE m)\n")
            self.assertIn("from C", package.run([package.cmake_program(source, "only_c_build")]))

    def test_shared_libraries_export_the_api_alone(self):
        calls = {"libkumiko": ("kumiko::attention_forward", "kumiko_attention_forward")}
        if has_mpi():
            calls["libkumiko_mpi"] = ("kumiko::distributed::attention_forward", "kumiko_sequence_parallel_forward")
        if package.variant == "static":
            for library, names in calls.items():
                archive = package.run(["nm", "-C", "--defined-only", package.libdir / f"{library}.a"])
                for name in names:
                    self.assertIn(name, archive)
            return
        # libkumiko_mpi is built on what two headers of its own declare, beside the public ones.
        places = [*(package.prefix / "include" / "kumiko").glob("*.h"), *(ROOT / "distributed" / name for name in ("c_abi.h", "local_tensors.h"))]
        headers = "".join(path.read_text() for path in places)
        declared = set(re.findall(r"\w+", re.sub(r"//[^\n]*|/\*.*?\*/", "", headers, flags=re.DOTALL)))
        for library, names in calls.items():
            exported = package.run(["nm", "-DC", "--defined-only", package.libdir / f"{library}.so"])
            # Weak symbols are instances of the standard library's templates with our inner types.
            strong = [line.split(maxsplit=2)[2] for line in exported.splitlines() if line.split()[1] in "TBDR"]
            for name in names:
                self.assertTrue(any(symbol.startswith(name) for symbol in strong), f"{library} lacks {name}")
            inner = [symbol for symbol in strong if not set(re.findall(r"\w+", symbol.partition("(")[0].replace("[abi:cxx11]", ""))) <= declared]
            self.assertEqual(inner, [], library)

    def test_linked_program_has_no_executable_stack_and_no_text_relocations(self):
        # One assembly file without .note.GNU-stack, or with an absolute address, would cause either for the whole
        # program.
        if package.variant == "static":
            programs = [package.cmake_program(HERE / "consumer_cpp", "consumer_stack")]
        else:
            programs = sorted(package.libdir.glob("libkumiko*.so"))
        self.assertTrue(programs)
        for program in programs:
            stack = [line for line in package.run(["readelf", "-lW", program]).splitlines() if "GNU_STACK" in line]
            self.assertEqual(len(stack), 1)
            self.assertNotIn("RWE", stack[0])
            self.assertNotIn("TEXTREL", package.run(["readelf", "-dW", program]))


if __name__ == "__main__":
    cmake, build, work, variant, cc, cxx = sys.argv[1:7]
    package = Package(cmake, Path(build), Path(work), variant, cc, cxx)
    unittest.main(argv=sys.argv[:1], verbosity=2)
