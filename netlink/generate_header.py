"""Print netlink/handshaked_family.h: the numbers of netlink/handshaked.yaml for C."""

import sys
from pathlib import Path
from typing import Any

import yaml

_HERE = Path(__file__).parent


def header(specification: dict[str, Any]) -> str:
    """Return the text of the header for `specification`."""
    lines = [
        "/* SPDX-License-Identifier: BSD-3-Clause */",
        "/* Generated from handshaked.yaml by generate_header.py: edit that file and run `make header`. */",
        "#ifndef HANDSHAKED_FAMILY_H",
        "#define HANDSHAKED_FAMILY_H",
        "",
        f"#define HANDSHAKED_FAMILY_VERSION {specification['version']}",
    ]
    enums = []
    for definition in specification["definitions"]:
        if definition["type"] == "const":
            lines.append(f"#define HANDSHAKED_{_upper(definition['name'])} {definition['value']}")
        else:
            enums.append((definition["name"], _entries(definition)))
    enums += [
        (f"a-{attributes['name']}", [(attribute["name"], attribute["value"]) for attribute in attributes["attributes"]])
        for attributes in specification["attribute-sets"]
    ]
    operations = specification["operations"]["list"]
    enums.append(("cmd", [(operation["name"], operation["value"]) for operation in operations]))
    for name, entries in enums:
        lines += ["", f"enum handshaked_{name.replace('-', '_')} {{"]
        lines += [f"\tHANDSHAKED_{_upper(name)}_{_upper(entry)} = {value}," for entry, value in entries]
        lines.append("};")
    return "\n".join([*lines, "", "#endif", ""])


def _entries(definition: dict[str, Any]) -> list[tuple[str, int]]:
    entries = definition["entries"]
    if isinstance(entries[0], str):
        return [(entry, definition["value-start"] + index) for index, entry in enumerate(entries)]
    return [(entry["name"], entry["value"]) for entry in entries]


def _upper(name: str) -> str:
    return name.upper().replace("-", "_")


if __name__ == "__main__":
    sys.stdout.write(header(yaml.safe_load((_HERE / "handshaked.yaml").read_text())))
