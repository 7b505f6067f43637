# SPDX-License-Identifier: Apache-2.0
"""docs/environment.md lists the variables that the library reads, all of them and no others.

    environment_doc_test.py ROOT
"""

import re
import sys
from pathlib import Path


def main():
    root = Path(sys.argv[1])
    read = set(re.findall(r'"(KUMIKO_[A-Z_]+)"', (root / "runtime" / "config.cpp").read_text()))
    table = set(re.findall(r"^\| `(KUMIKO_[A-Z_]+)` \|", (root / "docs" / "environment.md").read_text(), re.MULTILINE))
    for name in sorted(read - table):
        print(f"{name} is read by runtime/config.cpp but has no row in docs/environment.md")
    for name in sorted(table - read):
        print(f"{name} has a row in docs/environment.md but runtime/config.cpp does not read it")
    print(f"{len(read)} variables read, {len(table)} documented")
    sys.exit(0 if read and read == table else 1)


if __name__ == "__main__":
    main()
