# SPDX-License-Identifier: Apache-2.0
"""Tests that check_layers.py reports each kind of violation and nothing else: one small tree per case."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import check_layers

GOOD = {
    "kernels/cpu.h": "#pragma once\n",
    "kernels/gemm/x86_avx2.cpp": '#include <immintrin.h>\n#include "kernels/cpu.h"\n',
    "scheduler/topology.h": "#pragma once\n",
    "scheduler/topology_hwloc.cpp": '#include <hwloc.h>\n#include "topology.h"\n',
    "scheduler/memory.cpp": "#include <numa.h>\n#include <numaif.h>\n",
    "scheduler/executor_openmp.cpp": "#include <omp.h>\n",
    "scheduler/executor_tbb.cpp": "#include <tbb/task_arena.h>\n",
    "runtime/status.h": "#pragma once\n",
    "runtime/attention.h": '#include <string>\n#include "status.h"\n',
    "runtime/config.cpp": '#include <cstdlib>\nconst char* f() { return std::getenv("KUMIKO_ISA"); }\n',
    "runtime/plan.cpp": '#include "attention.h"\n#include "kernels/cpu.h"\n#include "scheduler/topology.h"\n',
    "examples/hello/main.cpp": "#include <kumiko/attention.h>\n",
    "tools/write_file.h": "#pragma once\n",
    "examples/train/main.cpp": '#include "tools/write_file.h"\n',
    "python/src/module.cpp": "#include <kumiko/attention.h>\n#include <nanobind/nanobind.h>\n",
    "tests/runtime/plan_test.cpp": '#include "runtime/attention.h"\n#include "scheduler/topology.h"\n',
    "bench/plan_bench.cpp": "#include <benchmark/benchmark.h>\n",
    "bench/rounds.h": "#pragma once\n",
    "tools/bench/measure.cpp": '#include "bench/rounds.h"\n#include "runtime/attention.h"\n',
    "bench/peak.cpp": '#include <immintrin.h>\n#include "kernels/cpu.h"\n',
}

# name: (file, its text, a piece of the line that must be printed)
BAD = {
    "kernels_to_runtime": ("kernels/a.cpp", '#include "runtime/status.h"\n', "kernels/a.cpp:1: kernels may not include runtime"),
    "kernels_to_scheduler": ("kernels/a.cpp", '\n#include "scheduler/topology.h"\n', "kernels/a.cpp:2: kernels may not"),
    "scheduler_to_kernels": ("scheduler/a.h", '#include "kernels/cpu.h"\n', "scheduler may not include kernels"),
    "scheduler_to_runtime_relative": ("scheduler/a.cpp", '#include "../runtime/status.h"\n', "scheduler may not include runtime"),
    "brackets_do_not_hide": ("scheduler/a.cpp", "#include <kernels/cpu.h>\n", "scheduler may not include kernels"),
    "spaces_do_not_hide": ("scheduler/a.cpp", '  #  include "kernels/cpu.h"\n', "scheduler may not include kernels"),
    "missing_file_does_not_hide": ("kernels/a.cpp", '#include "scheduler/none.h"\n', "kernels may not include scheduler"),
    "runtime_to_tests": ("runtime/a.cpp", '#include "tests/runtime/x.h"\n', "runtime may not include tests"),
    "runtime_to_tools": ("runtime/a.cpp", '#include "tools/topology/report.h"\n', "runtime may not include tools"),
    "runtime_to_bench": ("runtime/a.cpp", '#include "bench/rounds.h"\n', "runtime may not include bench"),
    "distributed_to_runtime": ("distributed/a.cpp", '#include "runtime/plan.h"\n', "distributed may not include runtime"),
    "runtime_to_distributed": ("runtime/a.cpp", '#include "distributed/cost_model.h"\n', "runtime may not include distributed"),
    "tools_to_tests": ("tools/a/a.cpp", '#include "tests/support/x.h"\n', "tools may not include tests"),
    "google_benchmark": ("bench/rounds.h", "#include <benchmark/benchmark.h>\n", "may include benchmark/benchmark.h"),
    "example_to_tools": ("examples/a/a.cpp", '#include "tools/bench/measure.h"\n', "examples may not include tools"),
    "example_inside": ("examples/a/a.cpp", '#include "runtime/attention.h"\n', "examples may not include runtime"),
    "public_header_inside": ("runtime/attention_c.h", '#include "scheduler/topology.h"\n', "public headers only"),
    "hwloc": ("scheduler/a.cpp", "#include <hwloc.h>\n", "only scheduler/topology_hwloc.cpp may include hwloc.h"),
    "hwloc_part": ("tests/a.cpp", "#include <hwloc/helper.h>\n", "may include hwloc/helper.h"),
    "numa": ("scheduler/topology_hwloc.cpp", "#include <numa.h>\n", "only scheduler/memory.cpp, tests/emulated_numa/, tests/scheduler/ may include numa.h"),
    "numaif": ("runtime/a.cpp", "#include <numaif.h>\n", "may include numaif.h"),
    "omp": ("runtime/a.cpp", "#include <omp.h>\n", "may include omp.h"),
    "tbb": ("runtime/a.cpp", "#include <oneapi/tbb/task_group.h>\n", "may include oneapi/tbb/task_group.h"),
    "intrinsics": ("runtime/a.cpp", "#include <immintrin.h>\n", "may include immintrin.h"),
    "intrinsics_old": ("scheduler/a.cpp", "#include <xmmintrin.h>\n", "may include xmmintrin.h"),
    "python_binding": ("runtime/a.cpp", "#include <nanobind/nanobind.h>\n", "only python/ may include nanobind/nanobind.h"),
    "python_to_runtime": ("python/src/a.cpp", '#include "runtime/attention.h"\n', "python may not include runtime"),
    "kernel_thread": ("kernels/a.cpp", "#include <thread>\n", "a kernel has no threads"),
    "getenv": ("runtime/plan.cpp", 'auto x = getenv("KUMIKO_ISA");\n', "runtime/plan.cpp:1: getenv is for runtime/config.cpp"),
    "std_getenv": ("scheduler/a.cpp", '\n\nauto x = std::getenv ("A");\n', "scheduler/a.cpp:3: getenv"),
    "secure_getenv": ("kernels/a.cpp", 'auto x = secure_getenv("A");\n', "getenv is for"),
    "abort": ("kernels/a.cpp", "void f() { std::abort(); }\n", "no file of the library"),
    "exit": ("runtime/a.cpp", "void f() { std::exit (1); }\n", "ending the process is for no file of the library"),
    "exit_at_once": ("scheduler/a.cpp", "void f() { _Exit(1); }\n", "ending the process is for no file of the library"),
    "environ": ("runtime/plan.cpp", "char** all = environ;\n", "getenv is for runtime/config.cpp"),
    "mpi": ("distributed/agreement.cpp", "#include <mpi.h>\n", "may include mpi.h"),
    "kernel_stream": ("kernels/a.cpp", "#include <iostream>\n", "a kernel has no threads and no streams (iostream)"),
    "kernel_lock": ("kernels/a.h", "#include <mutex>\n", "a kernel has no threads and no streams (mutex)"),
}

FINE = {
    "word_in_comment": ("kernels/a.cpp", "// getenv( is read elsewhere; abort() never\n/* #include <hwloc.h>\n*/\n"),
    "word_in_string": ("runtime/a.cpp", 'const char* s = "call getenv(3)";\n'),
    "tests_may_set_environment": ("tests/a.cpp", 'auto x = getenv("HOME");\n'),
    "longer_name": ("runtime/a.cpp", "int at_exit(int); int y = at_exit(1); int z = my_getenv(2);\n"),
}


def tree(extra):
    folder = tempfile.TemporaryDirectory()
    for name, text in {**GOOD, **extra}.items():
        path = Path(folder.name) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


class CheckLayers(unittest.TestCase):
    def test_good_tree_is_clean(self):
        with tree({}) as root:
            self.assertEqual(check_layers.check(Path(root)), (len(GOOD), []))

    def test_each_violation_is_seen_once(self):
        for name, (path, text, message) in BAD.items():
            with self.subTest(name), tree({path: text}) as root:
                violations = check_layers.check(Path(root))[1]
                self.assertEqual(len(violations), 1, violations)
                self.assertIn(message, violations[0])

    def test_what_only_looks_like_a_violation(self):
        for name, (path, text) in FINE.items():
            with self.subTest(name), tree({path: text}) as root:
                self.assertEqual(check_layers.check(Path(root))[1], [])

    def test_exit_status(self):
        script = check_layers.__file__
        for extra, expected in (({}, 0), ({"kernels/a.cpp": '#include "runtime/status.h"\n'}, 1)):
            with self.subTest(expected), tree(extra) as root:
                self.assertEqual(subprocess.run([sys.executable, script, root], stdout=subprocess.DEVNULL).returncode, expected)
        with tempfile.TemporaryDirectory() as empty:
            self.assertEqual(subprocess.run([sys.executable, script, empty], capture_output=True).returncode, 1)


if __name__ == "__main__":
    unittest.main()
