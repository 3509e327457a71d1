"""Text encoders of other libraries, behind the interface of our own."""

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindone_vq.text.clip import CLIPTextModel


class MindNLPTextEncoder:
    """mindnlp's CLIPTextModel, run eagerly as that library does, with token ids and embeddings of MindSpore.

    Args:
        model: ``mindnlp.transformers.CLIPTextModel``.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval() if hasattr(model, "eval") else model
        self.max_length = model.config.max_position_embeddings

    def __call__(self, input_ids: Tensor) -> tuple[Tensor]:
        """(batch, length) integers -> ((batch, length, hidden_size) float32,)."""
        # Its `torch` is mindnlp's own, put in place by importing it; we got a model, so that has happened.
        import torch

        with torch.no_grad():
            output = self.model(input_ids=torch.tensor(input_ids.asnumpy().astype(np.int64)))
        hidden = output.last_hidden_state.detach().to(torch.float32)
        return (Tensor(np.asarray(hidden.numpy()), ms.float32),)


def adapt_text_encoder(text_encoder: Any) -> Any:
    """``text_encoder`` as the pipeline calls it.

    Raises:
        TypeError: neither our CLIPTextModel nor mindnlp's.
    """
    if isinstance(text_encoder, (CLIPTextModel, MindNLPTextEncoder)):
        return text_encoder
    kinds = {(kind.__module__.split(".")[0], kind.__name__) for kind in type(text_encoder).__mro__}
    if any(name == "CLIPTextModel" and module != "mindone_vq" for module, name in kinds):
        return MindNLPTextEncoder(text_encoder)
    raise TypeError(
        f"text_encoder is a {type(text_encoder).__module__}.{type(text_encoder).__name__}; give the CLIPTextModel of "
        "mindone_vq or of mindnlp (pip install mindone_vq[mindnlp])."
    )
