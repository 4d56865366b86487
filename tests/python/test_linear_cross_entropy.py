"""linear_cross_entropy and token_nll from Python: what opcheck, the compiler, autocast and torch.func see."""

import pytest
import torch


def tensors(dtype=torch.float32, t=7, d=6, v=11, grad=(True, True)):
    torch.manual_seed(0)
    hidden = torch.randn(t, d, dtype=dtype, requires_grad=grad[0])
    weight = torch.randn(v, d, dtype=dtype, requires_grad=grad[1])
    targets = torch.randint(v, (t,))
    targets[2] = -100
    return hidden, weight, targets


OPTIONS = [{}, {"label_smoothing": 0.1, "z_loss": 1e-2, "logit_scale": 0.5}, {"ignore_index": 3}]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("grad", [(True, True), (True, False), (False, True), (False, False)])
def test_opcheck(aspis_ops, dtype, grad):
    hidden, weight, targets = tensors(dtype, grad=grad)
    for token_weights in (None, torch.rand(7)):
        for options in OPTIONS:
            if "ignore_index" in options:
                targets = targets.clamp_min(0)
            torch.library.opcheck(
                aspis_ops.linear_cross_entropy.default, (hidden, weight, targets, token_weights), options
            )


def test_opcheck_token_nll(aspis_ops):
    hidden, weight, targets = tensors(grad=(False, False))
    torch.library.opcheck(aspis_ops.token_nll.default, (hidden, weight, targets), {"logit_scale": 0.5})


def test_against_torch(aspis_ops):
    hidden, weight, targets = tensors()
    loss, valid = aspis_ops.linear_cross_entropy(hidden, weight, targets, label_smoothing=0.1)
    want = torch.nn.functional.cross_entropy(hidden @ weight.t(), targets, label_smoothing=0.1, reduction="sum")
    torch.testing.assert_close(loss, want)
    assert valid.item() == 6
    got = torch.autograd.grad(loss / valid, (hidden, weight))
    for a, b in zip(got, torch.autograd.grad(want / 6, (hidden, weight))):
        torch.testing.assert_close(a, b)
    nll = torch.nn.functional.cross_entropy(hidden @ weight.t(), targets, reduction="none")
    with torch.no_grad():
        torch.testing.assert_close(aspis_ops.token_nll(hidden, weight, targets), nll.detach())


def test_compile_equals_eager(aspis_ops):
    hidden, weight, targets = tensors()

    def mean(hidden, weight, targets):
        loss, valid = aspis_ops.linear_cross_entropy(hidden, weight, targets, z_loss=0.1)
        return loss / valid

    compiled = torch.compile(mean, fullgraph=True, backend="aot_eager")
    got, want = compiled(hidden, weight, targets), mean(hidden, weight, targets)
    assert torch.equal(got, want)
    for a, b in zip(torch.autograd.grad(got, (hidden, weight)), torch.autograd.grad(want, (hidden, weight))):
        assert torch.equal(a, b)


def test_autocast(aspis_ops):
    hidden, weight, targets = tensors()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = aspis_ops.linear_cross_entropy(hidden, weight, targets)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, aspis_ops.linear_cross_entropy(hidden.bfloat16(), weight.bfloat16(), targets)[0])
    dhidden, dweight = torch.autograd.grad(loss, (hidden, weight))
    assert dhidden.dtype == dweight.dtype == torch.float32


def test_helpers_ignore_autocast(aspis_ops):
    hidden, weight, targets = tensors(grad=(False, False))
    args = (hidden, weight, targets, None, -100, 0.0, 0.0, 1.0, True, True)
    plain = aspis_ops._linear_cross_entropy_fwd(*args)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for a, b in zip(plain, aspis_ops._linear_cross_entropy_fwd(*args)):
            assert torch.equal(a, b)


def test_refusals(aspis_ops):
    hidden, weight, targets = tensors()
    with pytest.raises(RuntimeError, match="aspis::linear_cross_entropy: torch.func transforms"):
        torch.func.grad(lambda h: aspis_ops.linear_cross_entropy(h, weight.detach(), targets)[0])(hidden.detach())
    with pytest.raises(RuntimeError, match="aspis::linear_cross_entropy: torch.func transforms"):
        torch.vmap(lambda h: aspis_ops.linear_cross_entropy(h, weight.detach(), targets)[0])(torch.randn(2, 7, 6))
    with pytest.raises(RuntimeError, match="aspis::token_nll: torch.func transforms"):
        torch.vmap(lambda h: aspis_ops.token_nll(h, weight.detach(), targets))(torch.randn(2, 7, 6))
    with pytest.raises(RuntimeError, match="token_weights is not differentiable"):
        aspis_ops.linear_cross_entropy(hidden, weight, targets, torch.rand(7, requires_grad=True))
    with pytest.raises(RuntimeError, match="aspis::token_nll: an input requires grad"):
        aspis_ops.token_nll(hidden, weight, targets)
    with pytest.raises(RuntimeError, match=r"targets\[4\] = 11 is not a token of the vocabulary \[0, v=11\)"):
        targets[4] = 11
        aspis_ops.linear_cross_entropy(hidden, weight, targets)


def test_dweight_is_not_computed_for_a_frozen_weight(aspis_ops):
    """The forward's own output says so: what would be saved has no elements."""
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if "_linear_cross_entropy_fwd" in str(func):
                seen.append([tuple(o.shape) for o in out])
            return out

    for grad in ((True, False), (False, True), (False, False)):
        hidden, weight, targets = tensors(grad=grad)
        with Watch():
            aspis_ops.linear_cross_entropy(hidden, weight, targets)
    assert seen == [[(), (), (7, 6), (0,)], [(), (), (0,), (11, 6)], [(), (), (0,), (0,)]]
