"""Token shards and sample orders against numpy: the format and Megatron's indices written down a second time.

The C++ side is the hidden cases of the program test_data (tests/cpp/data/test_exchange.cpp);
ASPIS_TEST_PROGRAMS names another folder with it.
"""

import os
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DTYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}


def run_case(folder: Path, name: str) -> None:
    program = Path(os.environ.get("ASPIS_TEST_PROGRAMS", REPOSITORY / "build/bin")) / "test_data"
    result = subprocess.run(
        [str(program), name],
        env={**os.environ, "ASPIS_EXCHANGE": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "No test" not in result.stdout, result.stdout


def read_set(prefix: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """Sequences and document index of PREFIX.bin and PREFIX.idx."""
    index = prefix.with_suffix(".idx").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    version, code, count, entries = struct.unpack_from("<QBQQ", index, 9)
    assert version == 1
    lengths = np.frombuffer(index, "<i4", count, 34)
    offsets = np.frombuffer(index, "<i8", count, 34 + 4 * count)
    documents = np.frombuffer(index, "<i8", entries, 34 + 12 * count)
    assert len(index) == 34 + 12 * count + 8 * entries
    tokens = prefix.with_suffix(".bin").read_bytes()
    return [np.frombuffer(tokens, DTYPES[code], n, at) for n, at in zip(lengths, offsets)], documents


def write_set(prefix: Path, code: int, documents: list[list[list[int]]]) -> None:
    dtype = np.dtype(DTYPES[code])
    sequences = [np.array(ids, dtype) for document in documents for ids in document]
    lengths = np.array([len(ids) for ids in sequences], "<i4")
    ends = np.cumsum(lengths.astype(np.int64)) * dtype.itemsize
    offsets = (ends - lengths.astype(np.int64) * dtype.itemsize).astype("<i8")
    borders = np.cumsum([0] + [len(document) for document in documents]).astype("<i8")
    prefix.with_suffix(".bin").write_bytes(b"".join(ids.tobytes() for ids in sequences))
    prefix.with_suffix(".idx").write_bytes(
        b"MMIDIDX\x00\x00"
        + struct.pack("<QBQQ", 1, code, len(sequences), len(borders))
        + lengths.tobytes()
        + offsets.tobytes()
        + borders.tobytes()
    )


def test_numpy_reads_and_rewrites_our_sets(tmp_path):
    run_case(tmp_path, "exchange: write a set of every dtype")
    for code, dtype in DTYPES.items():
        prefix = tmp_path / f"ours_{np.dtype(dtype).name}"
        sequences, documents = read_set(prefix)
        assert documents.tolist() == [0, 0, 1, 3, 6, 10]
        wanted = [
            [[10 * d + s + i for i in range(3 + s)] for s in range(d)] for d in range(5)
        ]
        flat = [ids for document in wanted for ids in document]
        assert [ids.tolist() for ids in sequences] == flat
        assert all(ids.dtype == dtype for ids in sequences)
        write_set(tmp_path / "again", code, wanted)
        for end in (".bin", ".idx"):
            assert prefix.with_suffix(end).read_bytes() == (tmp_path / "again").with_suffix(end).read_bytes()


@pytest.mark.parametrize("code", DTYPES)
def test_we_read_sets_written_by_numpy(tmp_path, code):
    random = np.random.default_rng(code)
    info = np.iinfo(DTYPES[code])
    documents = [
        [random.integers(info.min, info.max, random.integers(0, 50), endpoint=True, dtype=DTYPES[code]).tolist()
         for _ in range(random.integers(0, 4))]
        for _ in range(20)
    ]
    write_set(tmp_path / "theirs", code, documents)
    run_case(tmp_path, "exchange: read a set and write its tokens")
    wanted = [x for document in documents for ids in document for x in [len(ids), *ids]]
    assert np.fromfile(tmp_path / "theirs_ids", np.int64).tolist() == wanted
    borders = np.cumsum([0] + [len(document) for document in documents]).tolist()
    assert np.fromfile(tmp_path / "theirs_documents", np.int64).tolist() == borders


def test_shuffle_is_that_of_numpy(tmp_path):
    cases = [(seed, length) for seed in (0, 1, 42, 1234, 2**31, 2**32 - 1)
             for length in (0, 1, 2, 3, 10, 255, 256, 257, 1000, 70000)]
    (tmp_path / "shuffles").write_text("".join(f"{seed} {length}\n" for seed, length in cases))
    run_case(tmp_path, "exchange: shuffles")
    wanted = []
    for seed, length in cases:
        state = np.random.RandomState(seed)
        for _ in range(2):
            values = np.arange(length, dtype=np.int32)
            state.shuffle(values)
            wanted.append(values)
    assert np.array_equal(np.fromfile(tmp_path / "shuffled", np.int32), np.concatenate(wanted))


def megatron_order(lengths: list[int], seq_len: int, samples: int, seed: int) -> list[int]:
    """Document, sample and shuffle index, flattened, step by step from the definition."""
    state = np.random.RandomState(seed)
    tokens = sum(lengths)
    epochs = 1
    while epochs * tokens < samples * seq_len + 1:
        epochs += 1
    built = (epochs * tokens - 1) // seq_len
    before_last = ((epochs - 1) * tokens - 1) // seq_len
    separate = epochs > 1 and samples - before_last < int(0.80 * ((tokens - 1) // seq_len))

    def shuffled(values):
        state.shuffle(values)
        return values

    def ids(times):
        return shuffled(np.tile(np.arange(len(lengths), dtype=np.int32), times))

    documents = np.concatenate([ids(epochs - 1), ids(1)]) if separate else ids(epochs)

    places = [(0, 0)]
    document, offset = 0, 0
    for _ in range(built):
        remaining = seq_len + 1
        while remaining > 0:
            left = lengths[documents[document]] - offset
            remaining -= left
            if remaining <= 0:
                offset += left + remaining - 1
            else:
                document += 1
                offset = 0
        places.append((document, offset))
    if separate:
        order = np.concatenate([shuffled(np.arange(before_last, dtype=np.uint32)),
                                shuffled(np.arange(before_last, built, dtype=np.uint32))])
    else:
        order = shuffled(np.arange(built, dtype=np.uint32))
    return [*documents.tolist(), *[x for place in places for x in place], *order.tolist()]


def test_megatron_orders(tmp_path):
    random = np.random.default_rng(5)
    cases = []
    for trial in range(60):
        lengths = random.integers(0, 30, random.integers(1, 40)).tolist()
        lengths[0] += 1
        seq_len = int(random.integers(1, 40))
        per_epoch = max(1, (sum(lengths) - 1) // seq_len)
        cases.append((int(random.integers(0, 2**32)), seq_len,
                      int(random.integers(1, 4 * per_epoch + 2)), lengths))
    (tmp_path / "orders").write_text("".join(
        f"{seed} {seq_len} {samples} {len(lengths)} {' '.join(map(str, lengths))}\n"
        for seed, seq_len, samples, lengths in cases))
    run_case(tmp_path, "exchange: megatron orders")
    wanted = [x for seed, seq_len, samples, lengths in cases
              for x in megatron_order(lengths, seq_len, samples, seed)]
    assert np.fromfile(tmp_path / "ordered", np.int64).tolist() == wanted
