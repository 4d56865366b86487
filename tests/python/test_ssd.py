"""ssd as Torch sees it: schemas, fake tensors, compilation, autocast, refusals."""

import itertools

import pytest
import torch


def make_inputs(dtype=torch.float32, grad=False, b=2, l=70, h=4, p=5, g=2, n=6):
    torch.manual_seed(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    tensors = dict(
        x=torch.randn(b, l, h, p, dtype=dtype),
        dt=torch.randn(b, l, h, dtype=dtype),
        A=-torch.rand(h, dtype=wide) - 0.1,
        B=torch.randn(b, l, g, n, dtype=dtype),
        C=torch.randn(b, l, g, n, dtype=dtype),
        D=torch.randn(h, dtype=wide),
        z=torch.randn(b, l, h, p, dtype=dtype),
        dt_bias=torch.randn(h, dtype=wide),
        initial_state=torch.randn(b, h, p, n, dtype=wide),
    )
    return {name: t.requires_grad_(grad) for name, t in tensors.items()}


def call(op, tensors, **options):
    tensors = dict(tensors)
    positional = [tensors.pop(name) for name in ("x", "dt", "A", "B", "C")]
    return op(*positional, tensors.pop("D", None), **tensors, dt_softplus=True, **options)


def variants():
    for last, reverse, rich in itertools.product((False, True), repeat=3):
        yield dict(return_last_state=last, reverse=reverse), rich


@pytest.mark.parametrize("options,rich", list(variants()))
def test_opcheck(aspis_ops, options, rich):
    tensors = make_inputs(grad=True)
    if not rich:
        for name in ("D", "z", "dt_bias", "initial_state"):
            del tensors[name]
    positional = [tensors.pop(name) for name in ("x", "dt", "A", "B", "C")]
    positional.append(tensors.pop("D", None))
    torch.library.opcheck(
        aspis_ops.ssd.default, tuple(positional), dict(tensors, dt_softplus=True, **options)
    )


def test_opcheck_documents(aspis_ops):
    tensors = make_inputs(grad=True, b=1)
    positional = [tensors.pop(name) for name in ("x", "dt", "A", "B", "C", "D")]
    del tensors["initial_state"]
    ids = torch.tensor([0] * 30 + [-1] * 5 + [1] * 35, dtype=torch.int32).unsqueeze(0)
    borders = torch.tensor([0, 30, 30, 70], dtype=torch.int32)
    for documents in (dict(seq_idx=ids), dict(cu_seqlens=borders)):
        torch.library.opcheck(
            aspis_ops.ssd.default,
            tuple(positional),
            dict(tensors, **documents, return_last_state=True),
        )


@pytest.mark.parametrize("save", [False, True])
def test_opcheck_helpers(aspis_ops, save):
    t = make_inputs()
    shared = (t["x"], t["dt"], t["A"], t["B"], t["C"], t["D"], t["z"], t["dt_bias"], True, 0.1, 2.0)
    shared += (t["initial_state"], None, None, False)
    tests = ("test_schema", "test_faketensor")
    forward = shared + (True, save)
    torch.library.opcheck(aspis_ops._ssd_fwd.default, forward, test_utils=tests)
    if save:
        y, last_state, states = aspis_ops._ssd_fwd(*forward)
        backward = (torch.randn_like(y), torch.randn_like(last_state)) + shared + (states,)
        torch.library.opcheck(aspis_ops._ssd_bwd.default, backward, test_utils=tests)


def test_compile_equals_eager(aspis_ops):
    def loss(tensors):
        y, last_state = call(aspis_ops.ssd, tensors, return_last_state=True)
        return (y**2).sum() + last_state.sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for length in (70, 33):
        eager_inputs = make_inputs(torch.float64, grad=True, l=length)
        compiled_inputs = make_inputs(torch.float64, grad=True, l=length)
        eager, fused = loss(eager_inputs), compiled(compiled_inputs)
        eager.backward()
        fused.backward()
        torch.testing.assert_close(fused, eager)
        for name, tensor in eager_inputs.items():
            torch.testing.assert_close(compiled_inputs[name].grad, tensor.grad, msg=name)


def test_autocast(aspis_ops):
    tensors = make_inputs(grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y, last_state = call(aspis_ops.ssd, tensors, return_last_state=True)
    assert y.dtype == torch.bfloat16
    assert last_state.dtype == torch.float32
    half = {
        name: t.detach().to(torch.bfloat16) if name in ("x", "dt", "B", "C", "z") else t.detach()
        for name, t in tensors.items()
    }
    torch.testing.assert_close(y, call(aspis_ops.ssd, half)[0])
    y.float().sum().backward()
    assert all(t.grad.dtype == torch.float32 for t in tensors.values())
    wide = make_inputs(torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert call(aspis_ops.ssd, wide)[0].dtype == torch.float64


def test_transforms_are_refused(aspis_ops):
    t = make_inputs()
    rest = (t["dt"], t["A"], t["B"], t["C"])
    with pytest.raises(RuntimeError, match="torch.func transforms .* are not supported"):
        torch.vmap(lambda x: aspis_ops.ssd(x, *rest)[0])(t["x"].unsqueeze(0))
    with pytest.raises(RuntimeError, match="torch.func transforms .* are not supported"):
        torch.func.grad(lambda x: aspis_ops.ssd(x, *rest)[0].sum())(t["x"])


def step_inputs():
    t = make_inputs(l=3)
    states = torch.randn(5, 4, 5, 6)
    return (states, t["x"], t["dt"], t["A"], t["B"], t["C"], t["D"]), dict(
        z=t["z"],
        dt_bias=t["dt_bias"],
        dt_softplus=True,
        src_slots=torch.tensor([4, -1], dtype=torch.int32),
        dst_slots=torch.tensor([2, -1], dtype=torch.int32),
    )


def test_step_opcheck(aspis_ops):
    args, options = step_inputs()
    torch.library.opcheck(
        aspis_ops.ssd_step.default, args, options, test_utils=("test_schema", "test_faketensor")
    )


def test_step_writes_in_place(aspis_ops):
    args, options = step_inputs()
    before, version = args[0].clone(), args[0]._version
    aspis_ops.ssd_step(*args, **options)
    assert args[0]._version > version
    assert not torch.equal(args[0][2], before[2])
    untouched = [0, 1, 3, 4]
    assert torch.equal(args[0][untouched], before[untouched])


def test_step_compiles(aspis_ops):
    def step(states, *rest):
        return aspis_ops.ssd_step(states, *rest, **options)

    args, options = step_inputs()
    copy = args[0].clone()
    y = step(*args)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(copy, *args[1:]), y)
    torch.testing.assert_close(copy, args[0])


def test_step_refusals(aspis_ops):
    args, options = step_inputs()
    args[1].requires_grad_(True)
    with pytest.raises(RuntimeError, match="requires grad, but it is inference only"):
        aspis_ops.ssd_step(*args, **options)
    with torch.no_grad():
        aspis_ops.ssd_step(*args, **options)
    with pytest.raises(RuntimeError, match="torch.func transforms"):
        torch.vmap(lambda x: aspis_ops.ssd_step(args[0], x, *args[2:]))(args[1].unsqueeze(0))


def test_meta_has_no_values_to_check(aspis_ops):
    tensors = {name: t.to("meta") for name, t in make_inputs().items()}
    y, last_state = call(aspis_ops.ssd, tensors, return_last_state=True)
    assert y.shape == (2, 70, 4, 5) and last_state.shape == (2, 4, 5, 6)
