"""The C++ reader and writer against the safetensors package, both ways."""

import os
import pathlib
import subprocess

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

PROGRAM = pathlib.Path(__file__).parents[2] / "build" / "bin" / "test_checkpoint"

DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32,
    torch.int64, torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu,
    torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
]


def copy(source, target):
    """Reads and writes the file in C++."""
    environment = dict(os.environ, ASPIS_COPY_IN=str(source), ASPIS_COPY_OUT=str(target))
    return subprocess.run([str(PROGRAM), "safetensors: copy", "-r", "xml"], env=environment, text=True,
                          capture_output=True, timeout=120)


def tensor_of(dtype, *shape):
    count = torch.empty(shape, dtype=dtype).numel() * torch.empty((), dtype=dtype).element_size()
    values = torch.arange(count, dtype=torch.int64) * 7 + 3
    values = values % (2 if dtype == torch.bool else 251)
    return values.to(torch.uint8).view(dtype).view(shape)


def names_of(dtype):
    return str(dtype).removeprefix("torch.")


def same_bytes(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and (
        a.contiguous().view(-1).view(torch.uint8).equal(b.contiguous().view(-1).view(torch.uint8)))


def test_copy_equals_the_original_byte_for_byte(tmp_path):
    tensors = {}
    for dtype in DTYPES:
        tensors[names_of(dtype) + ".matrix"] = tensor_of(dtype, 3, 5)
        tensors[names_of(dtype) + ".empty"] = tensor_of(dtype, 2, 0)
    tensors['a "quoted" näme/\\ü'] = tensor_of(torch.float32, 4)
    save_file(tensors, tmp_path / "python.safetensors", metadata={"format": "pt"})
    result = copy(tmp_path / "python.safetensors", tmp_path / "cpp.safetensors")
    assert result.returncode == 0, result.stdout

    back = load_file(tmp_path / "cpp.safetensors")
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert same_bytes(back[name], tensor), name
    with safe_open(tmp_path / "cpp.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    original = (tmp_path / "python.safetensors").read_bytes()
    assert (tmp_path / "cpp.safetensors").read_bytes() == original


def test_scalars_and_empty_files(tmp_path):
    for tensors in ({}, {"a": torch.tensor(2.5), "b": torch.tensor(True)}):
        save_file(tensors, tmp_path / "python.safetensors")
        result = copy(tmp_path / "python.safetensors", tmp_path / "cpp.safetensors")
        assert result.returncode == 0, result.stdout
        back = load_file(tmp_path / "cpp.safetensors")
        assert back.keys() == tensors.keys()
        assert all(back[name].equal(tensors[name]) for name in tensors)


def header(text, data=b""):
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize("content", [
    b"",
    b"\xff" * 16,
    header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"123"),
    header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"12345"),
    header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', b"12345678"),
    header(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', b"1234"),
    header(b'{"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}', b"1234"),
    header(b'{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}', b"1"),
    header(b'{"__metadata__":{"a":1}}'),
    header(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},}', b"1"),
])
def test_what_the_package_refuses_is_refused(tmp_path, content):
    file = tmp_path / "bad.safetensors"
    file.write_bytes(content)
    with pytest.raises(SafetensorError):
        with safe_open(file, "pt") as opened:
            opened.keys()
    result = copy(file, tmp_path / "cpp.safetensors")
    assert result.returncode == 1
    assert "bad.safetensors: " in result.stdout
    assert not (tmp_path / "cpp.safetensors").exists()
