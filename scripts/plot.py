#!/usr/bin/env python3
"""Draws the loss curve of a run into RUN/loss.png from RUN/metrics.jsonl.

Several runs can be given; the picture then goes into the first one's folder and shows all of them.
"""

import argparse
import json
import math
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402


def read_metrics(run: pathlib.Path) -> list[dict]:
    """The lines of metrics.jsonl; stops with a sentence when there are none."""
    file = run / "metrics.jsonl"
    if not file.exists():
        sys.exit(f"{file}: no such file: is {run} the folder of a run?")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    if not lines:
        sys.exit(f"{file}: holds no metrics yet")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN")
    runs = parser.parse_args().runs
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for run in runs:
        lines = read_metrics(run)
        train = [m for m in lines if m["kind"] == "train"]
        validation = [m for m in lines if m["kind"] == "validation"]
        name = run.name if len(runs) > 1 else ""
        curve = axes.plot([m["step"] for m in train], [float(m["loss"]) / math.log(2) for m in train],
                          linewidth=1, label=f"{name} training".strip())
        axes.plot([m["step"] for m in validation], [m["bits_per_byte"] for m in validation], "o--",
                  color=curve[0].get_color(), markersize=4, label=f"{name} validation".strip())
    axes.set_xlabel("step")
    axes.set_ylabel("bits per token (training), bits per byte (validation)")
    axes.grid(alpha=0.3)
    axes.legend()
    out = runs[0] / "loss.png"
    figure.savefig(out, dpi=120)
    print(f"loss curve: {out}")


if __name__ == "__main__":
    main()
