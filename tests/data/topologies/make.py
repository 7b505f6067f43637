# SPDX-License-Identifier: Apache-2.0
"""Writes the machines of this folder as hwloc 2 XML.

    make.py            writes every file
    make.py --check    prints what differs from a fresh copy; exit status 1 if anything does

hwloc's synthetic strings cannot describe what matters here: a processor's identification, offline and forbidden CPUs, nodes that
the operating system numbers from 4 on.
"""

import itertools
import sys
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import quoteattr

HERE = Path(__file__).resolve().parent
KIB, MIB, GIB = 2**10, 2**20, 2**30
A64FX = {"CPUImplementer": "0x46", "CPUArchitecture": "8", "CPUVariant": "0x1", "CPUPart": "0x001", "CPURevision": "0"}


def bitmap(numbers):
    """hwloc's notation of a set: 32-bit words, highest first, the first never 0."""
    value = sum(1 << n for n in set(numbers))
    words = [value >> shift & 0xFFFFFFFF for shift in range(0, max(value.bit_length(), 1), 32)]
    return ",".join(f"0x{word:08x}" for word in reversed(words))


@dataclass
class Object:
    kind: str
    children: list = field(default_factory=list)
    os_index: int | None = None
    attributes: dict = field(default_factory=dict)
    info: dict = field(default_factory=dict)
    online: bool = True  # of a PU

    def cpus(self, complete=False):
        own = [self.os_index] if self.kind == "PU" and (self.online or complete) else []
        return own + [cpu for child in self.children for cpu in child.cpus(complete)]

    def nodes(self):
        own = [self.os_index] if self.kind == "NUMANode" else []
        return own + [node for child in self.children for node in child.nodes()]

    def write(self, lines, number, indent, inherited_nodes, machine=None):
        if self.kind == "PU" and not self.online:
            return
        # A NUMANode is listed among the children but stands for the cores beside it.
        beside = [child for child in self.children if child.kind == "NUMANode"]
        nodes = self.nodes() or inherited_nodes
        text = f'<object type="{self.kind}"'
        if self.os_index is not None:
            text += f' os_index="{self.os_index}"'
        text += f' cpuset="{bitmap(self.cpus())}" complete_cpuset="{bitmap(self.cpus(True))}"'
        if machine:
            text += f' allowed_cpuset="{bitmap(machine["cpus"])}"'
        text += f' nodeset="{bitmap(nodes)}" complete_nodeset="{bitmap(nodes)}"'
        if machine:
            text += f' allowed_nodeset="{bitmap(machine["nodes"])}"'
        text += f' gp_index="{next(number)}"' + "".join(f' {name}="{value}"' for name, value in self.attributes.items())
        lines.append(f"{indent}{text}>")
        lines.extend(f"{indent}  <info name={quoteattr(name)} value={quoteattr(value)}/>" for name, value in self.info.items())
        for child in beside:
            node = (f'{indent}  <object type="NUMANode" os_index="{child.os_index}" cpuset="{bitmap(self.cpus())}" '
                    f'complete_cpuset="{bitmap(self.cpus(True))}" nodeset="{bitmap([child.os_index])}" '
                    f'complete_nodeset="{bitmap([child.os_index])}" gp_index="{next(number)}" '
                    f'local_memory="{child.attributes["local_memory"]}">')
            page = child.attributes["page"]
            lines += [node, f'{indent}    <page_type size="{page}" count="{child.attributes["local_memory"] // page}"/>',
                      f"{indent}  </object>"]
        for child in self.children:
            if child.kind != "NUMANode":
                child.write(lines, number, indent + "  ", nodes)
        lines.append(f"{indent}</object>")


def numa(index, memory, page=4 * KIB):
    return Object("NUMANode", os_index=index, attributes={"local_memory": memory, "page": page})


def cache(level, size, children):
    kind = {1: "L1Cache", 2: "L2Cache", 3: "L3Cache"}[level]
    attributes = {"cache_size": size, "depth": level, "cache_linesize": 64, "cache_associativity": 0,
                  "cache_type": 1 if level == 1 else 0}
    return Object(kind, children, attributes=attributes)


def core(index, cpus, offline=(), l1=0, l2=0):
    result = Object("Core", [Object("PU", os_index=cpu, online=cpu not in offline) for cpu in cpus], os_index=index)
    if not result.cpus():
        return None  # Linux reports nothing for a core whose threads are all offline.
    for level, size in ((1, l1), (2, l2)):
        if size:
            result = cache(level, size, [result])
    return result


def cores(*wanted):
    return [one for one in wanted if one]


def xml(packages, architecture, allowed=None, allowed_nodes=None):
    machine = Object("Machine", packages, os_index=0, info={"Backend": "Linux", "OSName": "Linux", "Architecture": architecture})
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', '<!DOCTYPE topology SYSTEM "hwloc2.dtd">', '<topology version="2.0">']
    machine.write(lines, itertools.count(1), "  ", [], {"cpus": machine.cpus() if allowed is None else allowed,
                                                        "nodes": machine.nodes() if allowed_nodes is None else allowed_nodes})
    return "\n".join([*lines, "</topology>", ""])


def cmg(node, cpus, memory=8 * GIB):
    children = [numa(node, memory, 64 * KIB)] + [core(cpu, [cpu]) for cpu in cpus]
    return Object("Package", children, os_index=node, info=A64FX)


def a64fx_fx700():
    return xml([cmg(node, range(12 * node, 12 * node + 12)) for node in range(4)], "aarch64")


def a64fx_fugaku():
    """A node with four assistant cores, one per CMG, which jobs must not use."""
    assistants = [cmg(node, [node], 704 * MIB) for node in range(4)]
    compute = [cmg(4 + node, range(12 + 12 * node, 24 + 12 * node)) for node in range(4)]
    return xml(assistants + compute, "aarch64", range(12, 60), range(4, 8))


def x86_2_sockets(each, offline=()):
    """Linux numbers the first threads of all cores, socket by socket, then the second threads in the same order."""
    total = 2 * each

    def one(socket, index):
        cpu = socket * each + index
        return core(index, [cpu, total + cpu], offline, 48 * KIB, 1280 * KIB)

    def socket(number):
        l3 = cache(3, each * 3 * MIB // 2, cores(*(one(number, index) for index in range(each))))
        return Object("Package", [numa(number, 128 * GIB), l3], os_index=number, info={"CPUVendor": "GenuineIntel"})

    return xml([socket(0), socket(1)], "x86_64")


def epyc_nps4():
    """32 cores, a 32 MiB L3 for each 4 of them, four nodes in one socket (BIOS setting NPS4)."""
    def complex_of(number):
        members = (core(index, [index, 32 + index], (), 32 * KIB, MIB) for index in range(4 * number, 4 * number + 4))
        return cache(3, 32 * MIB, list(members))

    groups = [Object("Group", [numa(node, 48 * GIB), complex_of(2 * node), complex_of(2 * node + 1)],
                     attributes={"kind": 0, "subkind": 0}) for node in range(4)]
    return xml([Object("Package", groups, os_index=0, info={"CPUVendor": "AuthenticAMD"})], "x86_64")


def one_core_container():
    """Eight cores, of which a cpuset allows only the second thread of one."""
    members = [core(index, [index, 8 + index], (), 32 * KIB, 512 * KIB) for index in range(8)]
    package = Object("Package", [numa(0, 32 * GIB), cache(3, 16 * MIB, members)], os_index=0, info={"CPUVendor": "AuthenticAMD"})
    return xml([package], "x86_64", [13])


MACHINES = {
    "a64fx_fugaku.xml": a64fx_fugaku,
    "a64fx_fx700.xml": a64fx_fx700,
    "x86_2_sockets.xml": lambda: x86_2_sockets(20),
    # CPU 1 and its other thread 9, and the first thread of the core (2, 10).
    "x86_offline.xml": lambda: x86_2_sockets(4, {1, 9, 2}),
    "epyc_nps4.xml": epyc_nps4,
    "one_core_container.xml": one_core_container,
}


def main():
    stale = []
    for name, make in MACHINES.items():
        if sys.argv[1:] == ["--check"]:
            if not (HERE / name).is_file() or (HERE / name).read_text() != make():
                stale.append(name)
        else:
            (HERE / name).write_text(make())
    unknown = sorted({path.name for path in HERE.glob("*.xml")} - MACHINES.keys())
    for name in stale:
        print(f"{name} is not what make.py writes")
    for name in unknown:
        print(f"{name} is not one of make.py's machines")
    sys.exit(1 if stale or unknown else 0)


if __name__ == "__main__":
    main()
