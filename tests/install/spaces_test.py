# SPDX-License-Identifier: Apache-2.0
"""The benchmarks that are scripts, configured in a folder with spaces in its name:

    spaces_test.py CMAKE CC CXX
"""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Spaces(unittest.TestCase):
    def test_scripts_of_the_benchmarks_run(self):
        with tempfile.TemporaryDirectory(prefix="a name with spaces ") as folder:
            source, build = Path(folder) / "source", Path(folder) / "build"
            source.symlink_to(ROOT)
            subprocess.run([CMAKE, "-S", source, "-B", build, "-G", "Ninja", f"-DCMAKE_C_COMPILER={CC}", f"-DCMAKE_CXX_COMPILER={CXX}",
                            *(f"-DKUMIKO_BUILD_{what}=OFF" for what in ("TESTS", "EXAMPLES", "TOOLS"))],
                           check=True, stdout=subprocess.DEVNULL)
            scripts = [build / "bench" / name for name in ("a64fx_model", "distributed_bench") if (build / "bench" / name).exists()]
            self.assertTrue(scripts)
            for script in scripts:
                self.assertIn(" ", script.read_text().split("exec")[1].split("/main.py")[0].strip(' "'))
                done = subprocess.run([script, "--help"], capture_output=True, text=True, check=False)
                self.assertEqual((done.returncode, done.stderr), (0, ""))


if __name__ == "__main__":
    CMAKE, CC, CXX = sys.argv[1:4]
    unittest.main(argv=sys.argv[:1])
