"""rms_norm, add_rms_norm and gated_rms_norm from Python: what opcheck, the compiler, autocast and torch.func see."""

import pytest
import torch


def tensors(dtype=torch.float32, d=12, grad=True):
    torch.manual_seed(0)
    x, other = (torch.randn(3, 5, d, dtype=dtype, requires_grad=grad) for _ in range(2))
    return x, other, torch.randn(d, requires_grad=grad)


def calls(dtype=torch.float32):
    """(name, arguments, keyword arguments) over everything that changes the outputs."""
    x, other, weight = tensors(dtype)
    yield "rms_norm", (x, weight), {"eps": 1e-3}
    yield "rms_norm", (x,), {"group_size": 4}
    yield "rms_norm", (x.transpose(0, 1), weight.detach()), {}
    for in_fp32 in (False, True):
        yield "add_rms_norm", (x, other, weight), {"residual_in_fp32": in_fp32}
    yield "add_rms_norm", (x, other), {"eps": 1e-3}
    yield "add_rms_norm", (x, other.float(), weight), {}
    for before in (False, True):
        yield "gated_rms_norm", (x, other, weight), {"norm_before_gate": before, "group_size": 6}
        yield "gated_rms_norm", (x, None, weight), {"norm_before_gate": before}
        yield "gated_rms_norm", (x, other.detach()), {"norm_before_gate": before}


def outputs_and_gradients(f, args, kwargs):
    leaves = [a for a in args if a is not None and a.requires_grad]
    out = f(*args, **kwargs)
    out = list(out) if isinstance(out, tuple) else [out]
    loss = sum((o.float() * torch.arange(o.numel()).reshape(o.shape).cos()).sum() for o in out)
    return out + list(torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_opcheck(aspis_ops, dtype):
    for name, args, kwargs in calls(dtype):
        if dtype == torch.float64:
            args = tuple(a if a is None else a.detach().double().requires_grad_(a.requires_grad) for a in args)
        torch.library.opcheck(getattr(aspis_ops, name).default, args, kwargs)


def test_opcheck_helpers(aspis_ops):
    x, other, weight = tensors(grad=False)
    checks = ("test_schema", "test_faketensor")
    for need in (False, True):
        torch.library.opcheck(aspis_ops._rms_norm_bwd.default, (other, x, weight, 1e-5, 4, need), test_utils=checks)
        torch.library.opcheck(
            aspis_ops._gated_rms_norm_bwd.default, (x, x, other, weight, 1e-5, None, need, need), test_utils=checks
        )
        for dtype in (torch.float32, torch.bfloat16):
            torch.library.opcheck(
                aspis_ops._add_rms_norm_bwd.default,
                (x, other, other, weight, 1e-5, dtype, need),
                test_utils=checks,
            )


def test_compile_equals_eager(aspis_ops):
    for name, args, kwargs in calls():
        f = getattr(aspis_ops, name)
        torch._dynamo.reset()
        compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
        for got, want in zip(outputs_and_gradients(compiled, args, kwargs), outputs_and_gradients(f, args, kwargs)):
            torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_autocast(aspis_ops):
    x, other, weight = tensors(grad=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert aspis_ops.rms_norm(x, weight).dtype == torch.bfloat16
        assert aspis_ops.gated_rms_norm(x, other, weight).dtype == torch.bfloat16
        y, new_residual = aspis_ops.add_rms_norm(x, other, weight)
        assert (y.dtype, new_residual.dtype) == (torch.bfloat16, torch.float32)
        assert aspis_ops.rms_norm(x.double(), weight.double()).dtype == torch.float64
    assert torch.equal(y, aspis_ops.add_rms_norm(x.bfloat16(), other, weight)[0])


@pytest.mark.parametrize("name", ["rms_norm", "add_rms_norm", "gated_rms_norm"])
def test_torch_func_is_refused(aspis_ops, name):
    x, other, _ = tensors(grad=False)
    op = getattr(aspis_ops, name)
    args = (x,) if name == "rms_norm" else (x, other)
    with pytest.raises(RuntimeError, match=rf"aspis::{name}: torch.func transforms"):
        torch.vmap(op)(*args)
    with pytest.raises(RuntimeError, match=rf"aspis::{name}: torch.func transforms"):
        torch.func.grad(lambda a: torch.utils._pytree.tree_leaves(op(a, *args[1:]))[0].sum())(x)


def test_second_derivatives_are_refused(aspis_ops):
    x, other, weight = tensors()
    for op, args in ((aspis_ops.rms_norm, (x, weight)), (aspis_ops.gated_rms_norm, (x, other, weight))):
        (dx,) = torch.autograd.grad(op(*args).square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="second derivatives are not supported"):
            dx.sum().backward()


def test_a_residual_stream_trains(aspis_ops):
    """new_residual is saved for backward: changing it in place is noticed, using it twice adds up."""
    x, other, weight = tensors()
    y, residual = aspis_ops.add_rms_norm(x, other, weight)
    residual.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    y, residual = aspis_ops.add_rms_norm(x, other, weight)
    y, residual = aspis_ops.add_rms_norm(y, residual, weight)
    got = torch.autograd.grad((y + residual).sin().sum(), (x, other, weight))
    y, residual = aspis_ops.add_rms_norm_ref(x, other, weight)
    y, residual = aspis_ops.add_rms_norm_ref(y, residual, weight)
    want = torch.autograd.grad((y + residual).sin().sum(), (x, other, weight))
    for a, b in zip(got, want):
        torch.testing.assert_close(a, b)
