# SPDX-License-Identifier: Apache-2.0
"""The groups of groups.toml, every row with the fields of its table."""

import pathlib
import tomllib

PATH = pathlib.Path(__file__).resolve().parent / "groups.toml"


def load(path=PATH):
    """{name: {"about": ..., "rows": [row, ...]}}; the fields of a row override those of its table."""
    groups = tomllib.loads(path.read_text())
    for group in groups.values():
        tables = group.pop("tables")
        group["rows"] = [{**{field: value for field, value in table.items() if field != "rows"}, **row} for table in tables for row in table["rows"]]
    return groups
