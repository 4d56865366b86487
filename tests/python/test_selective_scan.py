"""selective_scan as Torch sees it: schemas, fake tensors, compilation, autocast, refusals."""

import itertools

import pytest
import torch

REQUIRED = ("x", "delta", "A", "B", "C")
REFUSAL = "torch.func transforms .* are not supported"


def make_inputs(dtype=torch.float32, grad=False, b=2, l=70, d=12, g=2, n=5):
    torch.manual_seed(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    tensors = dict(
        x=torch.randn(b, l, d, dtype=dtype),
        delta=torch.randn(b, l, d, dtype=dtype),
        A=-torch.rand(d, n, dtype=wide) - 0.1,
        B=torch.randn(b, l, g, n, dtype=dtype),
        C=torch.randn(b, l, g, n, dtype=dtype),
        D=torch.randn(d, dtype=wide),
        z=torch.randn(b, l, d, dtype=dtype),
        delta_bias=torch.randn(d, dtype=wide),
        initial_state=torch.randn(b, d, n, dtype=wide),
    )
    return {name: tensor.requires_grad_(grad) for name, tensor in tensors.items()}


def split(tensors):
    """The tensors as positional and keyword arguments."""
    rest = dict(tensors)
    positional = [rest.pop(name) for name in REQUIRED] + [rest.pop("D", None)]
    return tuple(positional), rest


def call(op, tensors, **options):
    positional, rest = split(tensors)
    return op(*positional, **rest, delta_softplus=True, **options)


@pytest.mark.parametrize("last,reverse,all_inputs", list(itertools.product((False, True), repeat=3)))
def test_opcheck(aspis_ops, last, reverse, all_inputs):
    tensors = make_inputs(grad=True)
    if not all_inputs:
        tensors = {name: tensors[name] for name in REQUIRED}
    positional, rest = split(tensors)
    options = dict(rest, delta_softplus=True, return_last_state=last, reverse=reverse)
    torch.library.opcheck(aspis_ops.selective_scan.default, positional, options)


@pytest.mark.parametrize("kind", ["seq_idx", "cu_seqlens"])
def test_opcheck_documents(aspis_ops, kind):
    tensors = make_inputs(grad=True, b=1)
    del tensors["initial_state"]
    positional, rest = split(tensors)
    documents = {
        "seq_idx": torch.tensor([0] * 30 + [-1] * 5 + [1] * 35, dtype=torch.int32).unsqueeze(0),
        "cu_seqlens": torch.tensor([0, 30, 30, 70], dtype=torch.int32),
    }
    options = dict(rest, delta_softplus=True, return_last_state=True)
    options[kind] = documents[kind]
    torch.library.opcheck(aspis_ops.selective_scan.default, positional, options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("save", [False, True])
def test_opcheck_helpers(aspis_ops, save, dtype):
    t = make_inputs(dtype)
    inputs = (t["x"], t["delta"], t["A"], t["B"], t["C"], t["D"], t["z"], t["delta_bias"], True)
    inputs += (t["initial_state"], None, None, False)
    tests = ("test_schema", "test_faketensor")
    forward = inputs + (True, save)
    torch.library.opcheck(aspis_ops._selective_scan_fwd.default, forward, test_utils=tests)
    if save:
        y, last_state, states = aspis_ops._selective_scan_fwd(*forward)
        for grads in ((torch.randn_like(y), torch.randn_like(last_state)), (torch.randn_like(y), None)):
            backward = grads + inputs + (states,)
            torch.library.opcheck(aspis_ops._selective_scan_bwd.default, backward, test_utils=tests)


def test_compile_equals_eager(aspis_ops):
    def loss(tensors):
        y, last_state = call(aspis_ops.selective_scan, tensors, return_last_state=True)
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
        y, last_state = call(aspis_ops.selective_scan, tensors, return_last_state=True)
    assert y.dtype == torch.bfloat16
    assert last_state.dtype == torch.float32
    half = {name: tensor.detach() for name, tensor in tensors.items()}
    for name in ("x", "delta", "B", "C", "z"):
        half[name] = half[name].to(torch.bfloat16)
    torch.testing.assert_close(y, call(aspis_ops.selective_scan, half)[0])
    y.float().sum().backward()
    assert all(tensor.grad.dtype == torch.float32 for tensor in tensors.values())
    with torch.autocast("cpu", torch.bfloat16):
        wide = call(aspis_ops.selective_scan, make_inputs(torch.float64))[0]
        half["A"] = half["A"].to(torch.bfloat16)  # as other autocast ops may leave it
        assert call(aspis_ops.selective_scan, half)[0].dtype == torch.bfloat16
    assert wide.dtype == torch.float64


def test_transforms_are_refused(aspis_ops):
    t = make_inputs()
    rest = (t["delta"], t["A"], t["B"], t["C"])
    with pytest.raises(RuntimeError, match=REFUSAL):
        torch.vmap(lambda x: aspis_ops.selective_scan(x, *rest)[0])(t["x"].unsqueeze(0))
    with pytest.raises(RuntimeError, match=REFUSAL):
        torch.func.grad(lambda x: aspis_ops.selective_scan(x, *rest)[0].sum())(t["x"])


def test_complex_a_is_refused(aspis_ops):
    tensors = make_inputs()
    tensors["A"] = tensors["A"].to(torch.complex64)
    with pytest.raises(RuntimeError, match="A must be real"):
        call(aspis_ops.selective_scan, tensors)


def step_inputs():
    positional, rest = split(make_inputs(l=3))
    del rest["initial_state"]
    options = dict(
        rest,
        delta_softplus=True,
        src_slots=torch.tensor([4, -1], dtype=torch.int32),
        dst_slots=torch.tensor([2, -1], dtype=torch.int32),
    )
    return (torch.randn(5, 12, 5),) + positional, options


def test_step_opcheck(aspis_ops):
    args, options = step_inputs()
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(aspis_ops.selective_scan_step.default, args, options, test_utils=tests)


def test_step_writes_in_place(aspis_ops):
    args, options = step_inputs()
    before, version = args[0].clone(), args[0]._version
    aspis_ops.selective_scan_step(*args, **options)
    assert args[0]._version > version
    assert not torch.equal(args[0][2], before[2])
    untouched = [0, 1, 3, 4]
    assert torch.equal(args[0][untouched], before[untouched])


def test_step_autocast(aspis_ops):
    args, options = step_inputs()
    copy = args[0].clone()
    with torch.autocast("cpu", torch.bfloat16):
        y = aspis_ops.selective_scan_step(*args, **options)
    assert y.dtype == torch.bfloat16 and args[0].dtype == torch.float32
    half = [tensor.to(torch.bfloat16) if i in (1, 2, 4, 5) else tensor for i, tensor in enumerate(args)]
    half[0] = copy
    options["z"] = options["z"].to(torch.bfloat16)
    assert torch.equal(aspis_ops.selective_scan_step(*half, **options), y)
    assert torch.equal(copy, args[0])


def test_step_compiles(aspis_ops):
    args, options = step_inputs()

    def step(states, *rest):
        return aspis_ops.selective_scan_step(states, *rest, **options)

    copy = args[0].clone()
    y = step(*args)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(copy, *args[1:]), y)
    torch.testing.assert_close(copy, args[0])


def test_step_refusals(aspis_ops):
    args, options = step_inputs()
    args[1].requires_grad_(True)
    with pytest.raises(RuntimeError, match="requires grad, but it is inference only"):
        aspis_ops.selective_scan_step(*args, **options)
    with torch.no_grad():
        aspis_ops.selective_scan_step(*args, **options)
    with pytest.raises(RuntimeError, match=REFUSAL):
        torch.vmap(lambda x: aspis_ops.selective_scan_step(args[0], x, *args[2:]))(
            args[1].detach().unsqueeze(0)
        )
