#!/usr/bin/env python3
"""Measures the ops and prints a table; with --json FILE it also writes the rows.

  scripts/bench.py cpu     one Mamba-1 and one Mamba-2 layer on the CPU, beside the peers that are importable
                           (pip install -r requirements-peers.txt)

A row is {op, shape, dtype, provider, pass, ms, limit_ms, card, torch, threads, peak_gflops}. Time is the
median of several calls after warm-up (one call where it takes over 5 s). No time is printed for an op whose result on that very input differs from its
reference. Run it on an idle machine; ratios within one run count, absolute times are of one machine.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import statistics
import sys
import time

import torch
import torch.nn.functional as F

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIBRARY = pathlib.Path(os.environ.get("ASPIS_OPS_LIBRARY", ROOT / "build/lib/libaspis_ops.so"))


def cpu_name() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(": ", 1)[1]
    return "unknown processor"


def median_ms(call, seconds: float = 1.5, least: int = 3) -> float:
    """Median time of one call in milliseconds, after a warm-up; one that takes over 5 s is timed once."""
    begin = time.perf_counter()
    call()
    if (first := time.perf_counter() - begin) > 5:
        return 1e3 * first
    times = []
    start = time.perf_counter()
    while len(times) < least or time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(times)


def sgemm_gflops() -> float:
    """The rate of a plain square sgemm, the ceiling that the layers are compared with."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return 2 * 1024**3 / median_ms(lambda: a @ b) / 1e6


class Layer:
    """Parameters of one layer and its forward as a function of the ops in use."""

    def __init__(self, **parameters):
        self.parameters = {name: value.requires_grad_() for name, value in parameters.items()}

    def __getattr__(self, name):
        return self.__dict__["parameters"][name]


def uniform(*size, fan_in):
    return (torch.rand(size) * 2 - 1) / fan_in**0.5


def mamba1(d_model=768, n=16, w=4):
    inner, rank = 2 * d_model, (d_model + 15) // 16
    layer = Layer(
        in_proj=uniform(2 * inner, d_model, fan_in=d_model), conv=uniform(inner, w, fan_in=w),
        conv_bias=torch.zeros(inner), x_proj=uniform(rank + 2 * n, inner, fan_in=inner),
        dt_proj=uniform(inner, rank, fan_in=rank), dt_bias=torch.full((inner,), -4.0),
        A_log=torch.arange(1, n + 1).float().log().repeat(inner, 1), D=torch.ones(inner),
        out_proj=uniform(d_model, inner, fan_in=inner))

    def forward(hidden, conv=None, scan=None):
        x, z = F.linear(hidden, layer.in_proj).chunk(2, dim=-1)
        x, _ = conv(x, layer.conv, layer.conv_bias, activation="silu")
        dt, b, c = F.linear(x, layer.x_proj).split([rank, n, n], dim=-1)
        delta = F.linear(dt, layer.dt_proj)
        y, _ = scan(x, delta, -layer.A_log.exp(), b.unsqueeze(2), c.unsqueeze(2), layer.D, z=z,
                    delta_bias=layer.dt_bias, delta_softplus=True)
        return F.linear(y, layer.out_proj)

    def projections(hidden):
        x, z = F.linear(hidden, layer.in_proj).chunk(2, dim=-1)
        return F.linear(z, layer.out_proj), x

    return layer, forward, projections, {"conv": "causal_conv1d", "scan": "selective_scan"}


def mamba2(d_model=768, n=128, p=64, g=1, w=4):
    inner = 2 * d_model
    heads, channels = inner // p, inner + 2 * g * n
    layer = Layer(
        in_proj=uniform(2 * inner + 2 * g * n + heads, d_model, fan_in=d_model),
        conv=uniform(channels, w, fan_in=w), conv_bias=torch.zeros(channels),
        dt_bias=torch.full((heads,), -4.0), A_log=(1 + 15 * torch.rand(heads)).log(),
        D=torch.ones(heads), norm=torch.ones(inner), out_proj=uniform(d_model, inner, fan_in=inner))

    def forward(hidden, conv=None, ssd=None, norm=None):
        b, l, _ = hidden.shape
        z, xbc, dt = F.linear(hidden, layer.in_proj).split([inner, channels, heads], dim=-1)
        xbc, _ = conv(xbc, layer.conv, layer.conv_bias, activation="silu")
        x, B, C = xbc.split([inner, g * n, g * n], dim=-1)
        y, _ = ssd(x.unflatten(-1, (heads, p)), dt, -layer.A_log.exp(), B.unflatten(-1, (g, n)),
                   C.unflatten(-1, (g, n)), layer.D, dt_bias=layer.dt_bias, dt_softplus=True)
        y = norm(y.reshape(b, l, inner), z, layer.norm, eps=1e-5, group_size=inner // g)
        return F.linear(y, layer.out_proj)

    def projections(hidden):
        whole = F.linear(hidden, layer.in_proj)
        return F.linear(whole[..., :inner], layer.out_proj), whole[..., inner:]

    return layer, forward, projections, {"conv": "causal_conv1d", "ssd": "ssd", "norm": "gated_rms_norm"}


def ops(names, reference=False):
    """Keyword arguments that choose the kernels, or the references, for a layer's forward."""
    return {key: getattr(torch.ops.aspis, name + ("_ref" if reference else ""))
            for key, name in names.items()}


def both_passes(forward, hidden, parameters):
    """The two timed calls: forward without gradients, forward and backward with all of them."""
    inputs = [hidden] + list(parameters)

    def fwd():
        with torch.no_grad():
            forward(hidden)

    def fwd_bwd():
        for tensor in inputs:
            tensor.grad = None
        out = forward(hidden)
        outs = out if isinstance(out, tuple) else (out,)
        torch.autograd.backward(outs, [torch.ones_like(o) for o in outs])

    return {"fwd": fwd, "fwd+bwd": fwd_bwd}


def worst_difference(layer, forward, names, d_model):
    """Largest relative error of output and gradients against the reference ops, on a short input."""
    hidden = torch.randn(1, 130, d_model, requires_grad=True)
    results = []
    for reference in (False, True):
        hidden.grad = None
        for value in layer.parameters.values():
            value.grad = None
        y = forward(hidden, **ops(names, reference))
        y.backward(torch.ones_like(y))
        results.append([y.detach(), hidden.grad] + [v.grad for v in layer.parameters.values()])
    return max(((a - b).norm() / (b.norm() + 1e-30)).item() for a, b in zip(*results))


def peers(name, hidden):
    """Importable peers as (provider, forward, parameters)."""
    found = []
    d_model = hidden.shape[-1]
    try:
        import transformers

        transformers.logging.set_verbosity_error()
        version = importlib.metadata.version("transformers")
        if name == "mamba1_layer":
            from transformers.models.mamba.modeling_mamba import MambaConfig, MambaMixer

            mixer = MambaMixer(MambaConfig(hidden_size=d_model, num_hidden_layers=1), layer_idx=0)
        else:
            from transformers.models.mamba2.modeling_mamba2 import Mamba2Config, Mamba2Mixer

            mixer = Mamba2Mixer(Mamba2Config(hidden_size=d_model, num_heads=2 * d_model // 64, head_dim=64,
                                             state_size=128, n_groups=1, num_hidden_layers=1), layer_idx=0)
        found.append((f"transformers {version}", lambda x: mixer(x), list(mixer.parameters())))
    except ImportError:
        pass
    if name == "mamba1_layer":
        try:
            from mambapy.mamba import MambaBlock, MambaConfig as PyConfig

            block = MambaBlock(PyConfig(d_model=d_model, n_layers=1))
            version = importlib.metadata.version("mambapy")
            found.append((f"mambapy {version}", block, list(block.parameters())))
        except ImportError:
            pass
    return found


def bench_cpu(arguments):
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    d_model, length = 768, arguments.length
    peak = sgemm_gflops()
    rows, failed = [], []
    common = {"dtype": "float32", "card": cpu_name(), "torch": torch.__version__,
              "threads": arguments.threads, "peak_gflops": round(peak, 1)}
    print(f"{cpu_name()}, {arguments.threads} threads, torch {torch.__version__}; "
          f"plain sgemm 1024^3: {peak:.0f} GFLOP/s\n")
    print(f"{'op':14} {'provider':22} {'pass':8} {'ms':>10} {'/ projections':>14}")
    for name, build in (("mamba1_layer", mamba1), ("mamba2_layer", mamba2)):
        layer, forward, projections, names = build(d_model)
        error = worst_difference(layer, forward, names, d_model)
        if not error < 1e-4:
            failed.append(f"{name}: differs from its reference by {error:.1e}: no time is given")
            continue
        hidden = torch.randn(1, length, d_model, requires_grad=True)
        used = [layer.in_proj, layer.out_proj]
        providers = [("projections", projections, used),
                     ("aspis", lambda x, f=forward, n=names: f(x, **ops(n)), layer.parameters.values())]
        if not arguments.no_peers:
            providers += peers(name, hidden)
        flops = 2 * length * sum(v.numel() for v in used)
        base = {}
        for provider, call, parameters in providers:
            for which, timed in both_passes(call, hidden, parameters).items():
                ms = median_ms(timed)
                base.setdefault(which, ms)  # the projections come first
                times = 1 if which == "fwd" else 3
                rows.append({"op": name, "shape": {"b": 1, "l": length, "d": d_model}, "provider": provider,
                             "pass": which, "ms": round(ms, 3),
                             "limit_ms": round(times * flops / peak / 1e6, 3), **common})
                print(f"{name:14} {provider:22} {which:8} {ms:10.1f} {ms / base[which]:14.2f}")
    for line in failed:
        print(line)
    return rows, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    cpu = commands.add_parser("cpu", help="one layer of each kind on the CPU")
    cpu.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    cpu.add_argument("--length", type=int, default=1024)
    cpu.add_argument("--no-peers", action="store_true", help="skip other implementations")
    cpu.add_argument("--json", type=pathlib.Path, help="write the rows to this file")
    arguments = parser.parse_args()
    if not LIBRARY.exists():
        sys.exit(f"{LIBRARY} is missing: build it with scripts/setup.sh, or name it in ASPIS_OPS_LIBRARY")
    torch.ops.load_library(str(LIBRARY))
    rows, failed = bench_cpu(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
