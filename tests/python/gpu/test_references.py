"""References run on any device: on the GPU they agree with the CPU in double."""

import pytest
import torch

B, L, D, N, H, P, G, W, V = 2, 37, 12, 8, 4, 6, 2, 4, 20


def normal(*size):
    return torch.randn(size, dtype=torch.float64)


def cases():
    seq_idx = torch.tensor([[0] * 10 + [1] * 20 + [-1] * 7, [3] * 37], dtype=torch.int32)
    yield "causal_conv1d_ref", (normal(B, L, D), normal(D, W), normal(D)), {
        "activation": "silu", "seq_idx": seq_idx, "return_last_state": True}
    yield "selective_scan_ref", (normal(B, L, D), normal(B, L, D), -normal(D, N).abs(), normal(B, L, G, N),
                                 normal(B, L, G, N), normal(D)), {
        "delta_softplus": True, "seq_idx": seq_idx, "return_last_state": True}
    yield "ssd_ref", (normal(B, L, H, P), normal(B, L, H), -normal(H).abs(), normal(B, L, G, N),
                      normal(B, L, G, N), normal(H)), {
        "dt_softplus": True, "seq_idx": seq_idx, "return_last_state": True}
    yield "rms_norm_ref", (normal(L, D), normal(D)), {}
    yield "add_rms_norm_ref", (normal(L, D), normal(L, D), normal(D)), {}
    yield "gated_rms_norm_ref", (normal(L, D), normal(L, D), normal(D)), {}
    yield "linear_cross_entropy_ref", (normal(L, D), normal(V, D), torch.randint(V, (L,))), {}


@pytest.mark.parametrize("name, inputs, options", list(cases()), ids=lambda v: v if isinstance(v, str) else "")
def test_reference_on_the_gpu(aspis_ops, name, inputs, options):
    op = getattr(torch.ops.aspis, name)

    def on(device):
        move = [t.to(device) for t in inputs]
        named = {k: v.to(device) if torch.is_tensor(v) else v for k, v in options.items()}
        out = op(*move, **named)
        return [t.cpu() for t in (out if isinstance(out, tuple) else (out,))]

    for ours, reference in zip(on("cuda"), on("cpu")):
        torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-9)
