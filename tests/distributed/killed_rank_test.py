# SPDX-License-Identifier: Apache-2.0
"""A rank that is killed ends the job: killed_rank_test.py COMMAND... must fail, soon, and never say that all is well."""

import subprocess
import sys
import unittest


class KilledRank(unittest.TestCase):
    def test_the_job_ends(self):
        ended = subprocess.run(COMMAND, capture_output=True, text=True, timeout=60)
        self.assertNotEqual(ended.returncode, 0, ended.stdout + ended.stderr)
        self.assertIn("first call is right: 1", ended.stdout)
        self.assertNotIn("all calls succeeded", ended.stdout)


COMMAND = sys.argv[1:]
unittest.main(argv=sys.argv[:1])
