"""The Python package: import, registration, and the bound model under a plain torch loop."""

import os
import pathlib
import subprocess
import sys


ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = pathlib.Path(os.environ.get("ASPIS_PYTHONPATH", ROOT / "build/python"))

SCRIPT = """
import torch, aspis
assert torch.ops.aspis.rms_norm(torch.ones(2, 8)).shape == (2, 8)
model = aspis.LanguageModel(config={config!r}, seed=3)
parameters = model.parameters()
optimizer = torch.optim.Adam(parameters.values(), lr=3e-3)
torch.manual_seed(0)
tokens = torch.randint(0, 256, (2, 33))
losses = []
for _ in range(30):
    total, count = model.loss(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
    loss = total / count
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
logits = model.logits(model.forward(tokens[:, :-1].contiguous()))
direct = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
total, count = model.loss(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
assert torch.allclose(direct, total / count, rtol=1e-4), (direct, total / count)
assert losses[-1] < 0.6 * losses[0], losses
try:
    aspis.LanguageModel(config="no_such_model")
except Exception as error:
    assert "no_such_model" in str(error)
else:
    raise AssertionError("a missing config must be refused")
print("ok", aspis.__version__)
"""


def test_package_trains_a_model_under_plain_torch():
    config = str(ROOT / "configs/models/quickstart.json")
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(config=config)], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(PACKAGE), "OMP_NUM_THREADS": "2"}, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ok")
