"""Sequence ops and language models for PyTorch.

Importing registers the ops as ``torch.ops.aspis.*`` (schemas and shapes: docs/kernels) and gives the
C++ language model as ``aspis.LanguageModel``. In a source tree the built package lies in
``build/python``: ``PYTHONPATH=build/python python3``.
"""

import torch

try:
    from . import _C
except ImportError as error:
    raise ImportError(
        f"aspis was not built for this Python or this torch ({torch.__version__}): {error}. "
        "Build it with scripts/setup.sh, with ASPIS_PYTHON naming this interpreter."
    ) from error

if torch.__version__.split("+")[0] != _C.torch_version.split("+")[0]:
    raise ImportError(
        f"aspis was built for torch {_C.torch_version}, but torch {torch.__version__} is running. "
        "Install that version, or build aspis again with scripts/setup.sh."
    )

from ._C import LanguageModel  # noqa: E402

__version__ = _C.version
__all__ = ["LanguageModel", "__version__"]
