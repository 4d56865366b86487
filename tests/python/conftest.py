"""Loads the operator library once; ASPIS_OPS_LIBRARY names another build."""

import os
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def aspis_ops():
    library = os.environ.get("ASPIS_OPS_LIBRARY", REPOSITORY / "build/lib/libaspis_ops.so")
    torch.ops.load_library(str(library))
    return torch.ops.aspis
