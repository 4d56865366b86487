"""causal_conv1d as Python sees it: opcheck, compile, autocast, what is refused."""

import pytest
import torch

B, L, D, W = 1, 9, 6, 4
REFUSED = "torch.func transforms"


def arguments(bias=True, state=False, documents=None, dtype=torch.float32, grad=True):
    """Positional and keyword arguments of the op."""
    states = 3 if documents == "cu_seqlens" else B
    kwargs = {"activation": "silu"}
    if state:
        kwargs["initial_state"] = torch.randn(states, D, W - 1, dtype=dtype, requires_grad=grad)
    if documents == "cu_seqlens":
        kwargs["cu_seqlens"] = torch.tensor([0, 4, 4, 9], dtype=torch.int32)
    if documents == "seq_idx":
        ids = [0, 0, -1, 0, 2, 2, 2, -1, 1]
        kwargs["seq_idx"] = torch.tensor([ids], dtype=torch.int32)
    x = torch.randn(B, L, D, dtype=dtype, requires_grad=grad)
    weight = torch.randn(D, W, dtype=dtype, requires_grad=grad)
    return (x, weight, torch.randn(D, dtype=dtype, requires_grad=grad) if bias else None), kwargs


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("documents", [None, "seq_idx", "cu_seqlens"])
@pytest.mark.parametrize("state", [False, True])
def test_opcheck(aspis_ops, state, documents, last):
    args, kwargs = arguments(state == last, state, documents)
    kwargs["return_last_state"] = last
    torch.library.opcheck(aspis_ops.causal_conv1d.default, args, kwargs)


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "slice"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_opcheck_layouts(aspis_ops, layout, dtype):
    (x, weight, bias), kwargs = arguments(dtype=dtype)
    if layout == "transposed":
        x = torch.randn(B, D, L, dtype=dtype).transpose(1, 2).requires_grad_()
    if layout == "slice":
        x = torch.randn(B, L, 3 * D, dtype=dtype)[..., D : 2 * D].requires_grad_()
    torch.library.opcheck(
        aspis_ops.causal_conv1d.default,
        (x, weight, bias),
        kwargs,
        test_utils=["test_schema", "test_autograd_registration", "test_faketensor"],
    )


def test_opcheck_step(aspis_ops):
    for slots in (None, torch.tensor([3, -1], dtype=torch.int32)):
        state = torch.randn(2 if slots is None else 5, D, W - 1)
        args = (state, torch.randn(2, 3, D), torch.randn(D, W), torch.randn(D))
        torch.library.opcheck(
            aspis_ops.causal_conv1d_step.default,
            args,
            {"activation": "silu", "src_slots": slots},
            test_utils=["test_schema", "test_faketensor"],
        )


@pytest.mark.parametrize("documents", [None, "cu_seqlens"])
def test_compile_forward_and_backward(aspis_ops, documents):
    args, kwargs = arguments(state=True, documents=documents)
    leaves = [*args, kwargs["initial_state"]]

    def loss(args, kwargs):
        y, last = aspis_ops.causal_conv1d(*args, **kwargs, return_last_state=True)
        return (y * y).sum() + last.sin().sum()

    eager = torch.autograd.grad(loss(args, kwargs), leaves)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    ours = torch.autograd.grad(compiled(args, kwargs), leaves)
    for ours_i, eager_i in zip(ours, eager, strict=True):
        assert torch.equal(ours_i, eager_i)


def test_compile_step_updates_the_state(aspis_ops):
    x, weight = torch.randn(2, 1, D), torch.randn(D, W)
    state = torch.randn(2, D, W - 1)
    other = state.clone()
    y = aspis_ops.causal_conv1d_step(state, x, weight)
    compiled = torch.compile(
        lambda s: aspis_ops.causal_conv1d_step(s, x, weight), fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(compiled(other), y)
    assert torch.equal(other, state)


def test_autocast(aspis_ops):
    args, kwargs = arguments(state=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, last = aspis_ops.causal_conv1d(*args, **kwargs, return_last_state=True)
        state = kwargs["initial_state"].detach().clone()
        with torch.no_grad():
            step = aspis_ops.causal_conv1d_step(state, args[0], args[1], args[2], activation="silu")
    assert y.dtype == last.dtype == step.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    y.sum().backward()
    for leaf in (*args, kwargs["initial_state"]):
        assert leaf.grad.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        args, kwargs = arguments(dtype=torch.float64)
        assert aspis_ops.causal_conv1d(*args, **kwargs)[0].dtype == torch.float64


def test_functional_transforms_are_refused(aspis_ops):
    (x, weight, bias), kwargs = arguments(grad=False)
    with pytest.raises(RuntimeError, match=REFUSED):
        torch.vmap(lambda v: aspis_ops.causal_conv1d(v, weight, bias)[0])(torch.stack([x, x]))
    with pytest.raises(RuntimeError, match=REFUSED):
        torch.func.grad(lambda v: aspis_ops.causal_conv1d(v, weight, bias)[0].sum())(x)
    state = torch.randn(2, B, D, W - 1)
    with pytest.raises(RuntimeError, match=REFUSED):
        torch.vmap(lambda s: aspis_ops.causal_conv1d_step(s, x, weight))(state)


def test_second_derivative_is_refused(aspis_ops):
    args, kwargs = arguments()
    y = aspis_ops.causal_conv1d(*args, **kwargs)[0]
    (dx,) = torch.autograd.grad(y.pow(2).sum(), args[0], create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives are not supported"):
        dx.sum().backward()


def test_step_refuses_gradients(aspis_ops):
    x = torch.randn(1, 1, D, requires_grad=True)
    with pytest.raises(RuntimeError, match="inference only"):
        aspis_ops.causal_conv1d_step(torch.randn(1, D, W - 1), x, torch.randn(D, W))
    with torch.no_grad():
        aspis_ops.causal_conv1d_step(torch.randn(1, D, W - 1), x, torch.randn(D, W))


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_against_conv1d(aspis_ops, bias, state):
    """An independent check: torch's own grouped convolution."""
    (x, weight, b), kwargs = arguments(bias, state, dtype=torch.float64, grad=False)
    before = kwargs.get("initial_state", torch.zeros(B, D, W - 1, dtype=torch.float64))
    padded = torch.cat([before, x.transpose(1, 2)], dim=2)
    want = torch.nn.functional.conv1d(padded, weight.unsqueeze(1), b, groups=D)
    want = torch.nn.functional.silu(want).transpose(1, 2)
    torch.testing.assert_close(aspis_ops.causal_conv1d(x, weight, b, **kwargs)[0], want)
    torch.testing.assert_close(aspis_ops.causal_conv1d_ref(x, weight, b, **kwargs)[0], want)


def test_step_counts_as_an_in_place_change(aspis_ops):
    state = torch.randn(1, D, W - 1)
    before = state._version
    aspis_ops.causal_conv1d_step(state, torch.randn(1, 1, D), torch.randn(D, W))
    assert state._version > before
