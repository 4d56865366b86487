#!/usr/bin/env python3
"""Checks which rooms of csrc include which (docs/architecture.md has the picture).

Reads every `#include "room/..."` below csrc, refuses arrows that the table does not have, Torch in device
code, and heavy Torch headers in headers.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent / "csrc"

MAY_INCLUDE = {
    "core": "",
    "ops": "core",
    "config": "core",
    "dist": "config core",
    "nn": "ops dist config core",
    "models": "nn ops dist config core",
    "text": "config core",
    "data": "text config core",
    "optim": "ops dist config core",
    "checkpoint": "models dist config core",
    "infer": "models text config core",
    "eval": "infer data models text config core",
    "train": "eval infer checkpoint optim data text models nn ops dist config core",
    "apps": "train eval infer checkpoint optim data text models nn ops dist config core",
    "bindings": "train eval infer checkpoint optim data text models nn ops dist config core",
}
# One op may not know another, but for these: (includer, included).
OP_ARROWS = {("add_rms_norm", "rms_norm"), ("gated_rms_norm", "rms_norm")}
INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]', re.MULTILINE)
HEAVY = {"torch/torch.h", "torch/extension.h", "torch/all.h"}


def complaints(path: pathlib.Path) -> list[str]:
    """Every broken rule in one file, as sentences."""
    parts = path.relative_to(ROOT).parts
    room = parts[0]
    out = []
    for quote, name in INCLUDE.findall(path.read_text()):
        if quote == "<":
            if name in HEAVY and path.suffix == ".h":
                out.append(f"includes {name}: too heavy for a header, name the few that are needed")
            if path.suffix in (".cu", ".cuh") and name.split("/")[0] in ("torch", "ATen", "c10"):
                out.append(f"device code includes {name}: kernels stay free of Torch")
            continue
        target = name.split("/")
        if target[0] not in MAY_INCLUDE:
            out.append(f'includes "{name}": not a room (write room/file.h from csrc on)')
        elif target[0] != room and target[0] not in MAY_INCLUDE[room].split():
            allowed = MAY_INCLUDE[room] or "nothing"
            out.append(f'includes "{name}": {room} may include {allowed} only')
        elif room == "ops" and target[0] == "ops" and len(target) == 3 and len(parts) == 3:
            if target[1] != parts[1] and (parts[1], target[1]) not in OP_ARROWS:
                out.append(f'includes "{name}": ops do not know each other')
    return out


def main() -> int:
    files = [p for p in sorted(ROOT.rglob("*")) if p.suffix in (".h", ".cpp", ".cu", ".cuh")]
    found = [f"{p.relative_to(ROOT.parent)}: {c}" for p in files for c in complaints(p)]
    rooms = {p.relative_to(ROOT).parts[0] for p in files}
    found += [f"csrc/{room}: not in the table of rooms" for room in sorted(rooms - set(MAY_INCLUDE))]
    print("\n".join(found) if found else f"layers: {len(files)} files keep to the table")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
