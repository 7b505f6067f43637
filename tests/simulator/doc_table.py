# SPDX-License-Identifier: Apache-2.0
"""The table between the markers of docs/planning.md is what plan_sweep prints.

    doc_table.py PROGRAM PAGE            exit status 1 if it differs
    doc_table.py PROGRAM PAGE --write    writes it there
"""

import subprocess
import sys
from pathlib import Path

BEGIN, END = "<!-- plan_sweep -->\n", "<!-- end of plan_sweep -->\n"


def main():
    program, page = sys.argv[1], Path(sys.argv[2])
    fresh = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    before, rest = page.read_text().split(BEGIN)
    table, after = rest.split(END)
    if sys.argv[3:] == ["--write"]:
        page.write_text(before + BEGIN + fresh + END + after)
    elif table != fresh:
        sys.exit(f"the table of {page} is stale: {' '.join(sys.argv)} --write makes it anew. It should be\n{fresh}")


if __name__ == "__main__":
    main()
