"""Names: MindSpore parameters <-> entries of a PyTorch state dict.

Cells carry the attribute names of diffusers' and transformers' modules, so a path needs no renaming; only what
MindSpore's own layers call their parameters differs, and that depends on the type of the cell alone.
"""

import re
from typing import Optional

from mindspore import Parameter, nn

from mindone_vq.nn.normalization import LayerNorm

# (cell types, {MindSpore's name: PyTorch's name})
PARAMETER_NAMES = (
    ((nn.Embedding,), {"embedding_table": "weight"}),
    ((LayerNorm, nn.LayerNorm, nn.GroupNorm), {"gamma": "weight", "beta": "bias"}),
)

# What older releases called the same weights: (pattern, replacement), applied in order.
OLD_NAMES = (
    (r"(attentions\.\d+)\.query\.", r"\1.to_q."),
    (r"(attentions\.\d+)\.key\.", r"\1.to_k."),
    (r"(attentions\.\d+)\.value\.", r"\1.to_v."),
    (r"(attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
)

# Entries that no network needs: (pattern, the reason it may be left out).
IGNORED_KEYS = ((r"(^|\.)position_ids$", "a buffer that counts from 0, saved by older releases"),)


def current_name(key: str) -> str:
    """``key`` as current releases spell it."""
    for pattern, replacement in OLD_NAMES:
        key = re.sub(pattern, replacement, key)
    return key


def reason_to_ignore(key: str) -> Optional[str]:
    """Why ``key`` may be left out, or None where it may not."""
    for pattern, reason in IGNORED_KEYS:
        if re.search(pattern, key):
            return reason
    return None


def state_dict_parameters(cell: nn.Cell) -> dict[str, Parameter]:
    """Every parameter of ``cell`` under the key a PyTorch state dict has for it, in the order of the cells."""
    parameters = {}
    for path, part in cell.cells_and_names():
        names = next((names for types, names in PARAMETER_NAMES if isinstance(part, types)), {})
        for name, parameter in part.parameters_and_names(expand=False):
            key = names.get(name, name)
            parameters[f"{path}.{key}" if path else key] = parameter
    return parameters
