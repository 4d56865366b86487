"""The `aspis` program as a user meets it: files written, messages, exit codes, kill and resume."""

import json
import os
import pathlib
import signal
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
ASPIS = pathlib.Path(os.environ.get("ASPIS_COMMAND", ROOT / "build/bin/aspis"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "2"}

MODEL = {"d_model": 32, "vocab_size": 264, "layer_pattern": "M-*-m",
         "blocks": {"M": {"d_state": 16, "headdim": 16}, "m": {"d_state": 4}, "*": {"heads": 2}}}


def aspis(*arguments, code=0):
    """Runs the command, checks the exit code, returns what it printed."""
    done = subprocess.run([str(ASPIS), *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, errors="replace",
                          timeout=300, env=ENVIRONMENT)
    assert done.returncode == code, f"exit code {done.returncode}, expected {code}:\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    aspis("prepare", "--glob", ROOT / "csrc/ops/**/*.h", "--glob", ROOT / "csrc/core/*.h",
          "--validation-share", "0.2", "--out", folder / "text")
    return folder / "text"


@pytest.fixture
def config(shards, tmp_path):
    """Writes a small run config; keyword arguments replace sections."""

    def write(name="run.json", **sections):
        run = {"model": MODEL,
               "data": {"train": [{"path": f"{shards}_train"}], "validation": f"{shards}_validation",
                        "seq_len": 64},
               "optim": {"lr": 3e-3}, "schedule": {"warmup_steps": 2},
               "train": {"steps": 8, "batch": 2, "accumulation": 2, "device": "cpu"},
               "eval": {"max_tokens": 2048, "markov_orders": [1, 2]},
               "checkpoint": {"every": 2}, "log": {"every": 1}}
        run.update(sections)
        file = tmp_path / name
        file.write_text(json.dumps(run))
        return file

    return write


def metrics(run):
    """What a run computed, without what a clock measured."""
    lines = []
    for line in (run / "metrics.jsonl").read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            pass  # the line that a kill cut short
    keys = ("kind", "step", "tokens", "loss", "grad_norm", "lr", "bits_per_byte")
    return [{k: line[k] for k in keys if k in line} for line in lines]


def final_model(run):
    newest = sorted((run / "checkpoints").iterdir())[-1]
    return (newest / "model.safetensors").read_bytes()


def test_train_writes_what_it_promises_and_generates(config, tmp_path):
    run = tmp_path / "run"
    done = aspis("train", config(), "--out", run)
    assert "device     cpu: asked for" in done.stderr
    summary = json.loads((run / "summary.json").read_text())
    assert {"val_bpb", "order1_bpb", "order2_bpb", "params", "tokens", "train_seconds"} <= set(summary)
    assert 0 < summary["val_bpb"] < 10
    assert summary["tokens"] == 8 * 2 * 2 * 64
    assert [m["step"] for m in metrics(run) if m["kind"] == "train"] == list(range(1, 9))
    assert json.loads((run / "config.json").read_text())["optim"]["betas"] == [0.9, 0.95]
    first, again = (aspis("generate", run, "--prompt", "def ", "--max-tokens", 20, "--seed", 3).stdout
                    for _ in range(2))
    assert first == again and first


def test_kill_and_resume_twice_gives_the_same_bits(config, tmp_path):
    file = config(train={"steps": 14, "batch": 2, "accumulation": 2, "device": "cpu"})
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    aspis("train", file, "--out", whole)
    for attempt, until in enumerate((4, 9)):
        resume = ["--resume"] if attempt else []
        process = subprocess.Popen([str(ASPIS), "train", str(file), "--out", str(killed), *resume],
                                   stderr=subprocess.DEVNULL, cwd=ROOT, env=ENVIRONMENT)
        deadline = time.time() + 120
        while time.time() < deadline and process.poll() is None:
            if (killed / "metrics.jsonl").exists() and len(metrics(killed)) > until:
                break
            time.sleep(0.002)
        assert process.poll() is None, "the run ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    aspis("train", file, "--out", killed, "--resume")
    assert metrics(killed) == metrics(whole)
    assert final_model(killed) == final_model(whole)
    # Resuming a run that has ended changes nothing.
    aspis("train", file, "--out", killed, "--resume")
    assert metrics(killed) == metrics(whole)
    val_bpb = [json.loads((run / "summary.json").read_text())["val_bpb"] for run in (killed, whole)]
    assert val_bpb[0] == val_bpb[1] > 0


def test_a_signal_saves_and_says_how_to_go_on(config, tmp_path):
    file = config(train={"steps": 100000, "device": "cpu"}, checkpoint={"every": 0})
    run = tmp_path / "run"
    process = subprocess.Popen([str(ASPIS), "train", str(file), "--out", str(run)], text=True, cwd=ROOT,
                               stderr=subprocess.PIPE, env=ENVIRONMENT)
    while not (run / "metrics.jsonl").exists() or not metrics(run):
        time.sleep(0.01)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 6
    assert "go on with --resume" in err
    assert list((run / "checkpoints").iterdir())


def test_accumulation_and_batch_split_agree(config, tmp_path):
    losses = []
    for name, batch, accumulation in (("a", 4, 1), ("b", 1, 4)):
        file = config(f"{name}.json", train={"steps": 4, "batch": batch, "accumulation": accumulation,
                                             "device": "cpu"})
        aspis("train", file, "--out", tmp_path / name)
        losses.append([m["loss"] for m in metrics(tmp_path / name) if m["kind"] == "train"])
    assert losses[0] == pytest.approx(losses[1], rel=2e-5)


def test_max_seconds_fits_the_number_of_steps(config, tmp_path):
    file = config(train={"steps": 1000000, "batch": 2, "max_seconds": 5, "device": "cpu"},
                  checkpoint={"every": 0}, log={"every": 100})
    done = aspis("train", file, "--out", tmp_path / "run")
    assert "each fit into 0:05 (asked for: 1000000)" in done.stderr
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert 10 < summary["steps"] < 1000000


@pytest.mark.parametrize("assignment, code, message", [
    ("optim.weight_decya=0.1", 3, "optim.weight_decya: unknown key (did you mean weight_decay?)"),
    ("train.steps=1.5", 3, "train.steps: expected an integer >= 1, got 1.5"),
    ('optim.lr="fast"', 3, "optim.lr: expected a number"),
    ("model.layer_pattern=MXM", 3, "X"),
    ("model.layer_pattern=M+M", 3, "+"),
    ("data.seq_len=100000000", 4, "seq_len"),
    ("data.validation=nowhere/x", 4, "nowhere/x"),
    ("model.vocab_size=100", 4, "vocab"),
])
def test_bad_configs_stop_with_a_sentence(config, tmp_path, assignment, code, message):
    done = aspis("train", config(), "--out", tmp_path / "run", "--set", assignment, code=code)
    assert message in done.stderr
    assert not (tmp_path / "run").exists()


def test_other_bad_input(config, tmp_path):
    assert "no such file" in aspis("train", tmp_path / "none.json", "--out", tmp_path / "r", code=4).stderr
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "notes.txt").write_text("mine")
    done = aspis("train", config(), "--out", occupied, code=2)
    assert "already holds other files" in done.stderr
    assert (occupied / "notes.txt").read_text() == "mine" and len(list(occupied.iterdir())) == 1
    run = tmp_path / "run"
    aspis("train", config(), "--out", run)
    before = (run / "metrics.jsonl").read_text()
    assert "already holds a run" in aspis("train", config(), "--out", run, code=2).stderr
    done = aspis("train", config(), "--out", run, "--resume", "--set", "optim.lr=1", code=3)
    assert "optim.lr: 0.003 -> 1" in done.stderr
    assert (run / "metrics.jsonl").read_text() == before
    assert "--help" in aspis("tarin", code=2).stderr
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    assert "empty" in aspis("prepare", "--glob", empty, "--out", tmp_path / "e", code=4).stderr
    assert "nothing.*" in aspis("prepare", "--glob", tmp_path / "nothing.*", "--out", tmp_path / "e",
                                code=4).stderr


@pytest.mark.parametrize("name, parameters", [
    ("study_transformer_8b", 8540135424), ("study_mamba2_8b", 8236999680),
    ("study_hybrid_8b", 8654517248), ("mamba2_130m", 128989632), ("mamba_130m", 129135360)])
def test_inspect_counts_exactly(name, parameters):
    report = json.loads(aspis("inspect", f"configs/models/{name}.json", "--json").stdout)
    assert report["parameters"] == parameters


def test_config_page_is_the_generated_one():
    page = aspis("config", "docs").stdout
    assert page == (ROOT / "docs/config.md").read_text(), \
        "docs/config.md is out of date: build/bin/aspis config docs > docs/config.md"


@pytest.mark.parametrize("file", sorted((ROOT / "configs/runs").glob("*.json")), ids=lambda p: p.stem)
def test_run_configs_read_and_write_back(file, tmp_path):
    shown = aspis("config", "show", file).stdout
    copy = tmp_path / "copy.json"
    copy.write_text(shown)
    assert aspis("config", "show", copy).stdout == shown
    aspis("config", "check", file)


def test_doctor_agrees_with_the_references():
    out = aspis("doctor").stdout
    assert "ssd" in out and "WRONG" not in out
