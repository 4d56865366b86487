"""Objects of the C++ library."""

from torch import Tensor

version: str
torch_version: str

class LanguageModel:
    """A language model built from a config file (a path, or a name in configs/models).

    Parameters are ordinary leaf tensors: change them in place, read their `.grad`.
    """

    def __init__(self, config: str, seed: int = 1, device: str = "cpu") -> None: ...
    def parameters(self) -> dict[str, Tensor]:
        """All parameters by name; they share storage with the model."""

    def forward(self, tokens: Tensor, seq_idx: Tensor | None = None,
                cu_seqlens: Tensor | None = None) -> Tensor:
        """tokens (b, l) int64 -> hidden (b, l, d_model) after the final norm."""

    def loss(self, tokens: Tensor, targets: Tensor, seq_idx: Tensor | None = None,
             cu_seqlens: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Summed negative log likelihood and number of targets that count (target -100: none)."""

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (..., d_model) -> logits (..., v) float32."""
