"""bitsandbytes' layers under their own names, for inputs of any layout; importing this opens a GPU, so do it late.

bitsandbytes 0.50 hands the address of a layer's input to kernels that take row r to begin at r times the number of
columns: INT8 on CUDA, and NF4 repacked for a CPU with BF16 instructions, where any last stride but 1 is misread. An
input such as the class tokens ``states[:, 0, :]`` is not laid out so, and each row but the first is then another
token's, silently; an input without rows ends the process. ``Linear8bitLt`` flattens inputs of three dimensions alone.
Such inputs are copied or reshaped here; for others all this costs is the question.
"""

from typing import Any

import bitsandbytes as bnb
import torch

from visionquant.core.errors import StudyError


class Linear8bitLt(bnb.nn.Linear8bitLt):
    """INT8 for an input of shape (..., in_features)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if 2 <= x.ndim <= 3 and x.is_contiguous():
            answer: torch.Tensor = super().forward(x)
            return answer
        rows = super().forward(x.reshape(-1, x.shape[-1]).contiguous())
        return rows.reshape(*x.shape[:-1], self.out_features)


class Linear4bit(bnb.nn.Linear4bit):
    """4 bit for an input of shape (..., in_features)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not x.numel():  # the repacked kernel divides by the number of rows, and takes the process with it
            return x.new_empty(*x.shape[:-1], self.out_features)
        answer: torch.Tensor = super().forward(x if x.is_contiguous() else x.contiguous())
        return answer

    def _save_to_state_dict(self, *args: Any) -> None:
        """A StudyError where the layer was repacked: its scales are rounded and in another order then."""
        if getattr(self.weight.quant_state, "packing_format_for_cpu", False):
            found = "it has run on this CPU, which repacked its NF4 layers and rounded their scales"
            raise StudyError("state of the model", found, "convert it anew and take that one's")
        super()._save_to_state_dict(*args)
