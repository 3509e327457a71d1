"""Tokenizers and text encoders of other libraries, behind the interface of our own."""

import os
from typing import Any, Union

import numpy as np

from mindone_vq.text.clip import CLIPTextModel


class MindNLPTextEncoder:
    """mindnlp's CLIPTextModel, run eagerly; numpy arrays in and out.

    To import mindnlp changes ``import torch`` and the methods of ``mindspore.Tensor`` for the whole process. Therefore
    it is imported only here, where a model of mindnlp is loaded or given.

    Args:
        model: ``mindnlp.transformers.CLIPTextModel``.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        self.max_length = model.config.max_position_embeddings
        self.hidden_size = model.config.hidden_size

    @classmethod
    def from_pretrained(cls, folder: Union[str, os.PathLike]) -> "MindNLPTextEncoder":
        """Loads the text encoder of a folder or a hub id by mindnlp; ImportError if that is not installed."""
        try:
            from mindnlp.transformers import CLIPTextModel as MindNLPModel
        except ImportError as error:
            raise ImportError(
                "This needs mindnlp, which is not installed: pip install 'mindone_vq[mindnlp]', in a separate "
                "environment, because it needs particular versions of other packages."
            ) from error
        return cls(MindNLPModel.from_pretrained(folder))

    def __call__(self, input_ids: np.ndarray) -> np.ndarray:
        """(batch, length) integers -> the last hidden state, (batch, length, hidden_size) float32."""
        import mindtorch as torch  # part of mindnlp

        with torch.no_grad():
            output = self.model(input_ids=torch.tensor(input_ids.astype(np.int64)))
        return output.last_hidden_state.to(torch.float32).numpy()


def adapt_tokenizer(tokenizer: Any) -> Any:
    """``tokenizer``; TypeError if it has not the interface of transformers' CLIPTokenizer."""
    for name in ("encode", "decode", "model_max_length", "__call__"):
        if not hasattr(tokenizer, name):
            raise TypeError(f"tokenizer is a {type(tokenizer).__name__} without {name}: give a CLIPTokenizer.")
    return tokenizer


def adapt_text_encoder(text_encoder: Any) -> Any:
    """``text_encoder`` as the pipeline calls it; TypeError if it is neither our CLIPTextModel nor mindnlp's."""
    if isinstance(text_encoder, (CLIPTextModel, MindNLPTextEncoder)):
        return text_encoder
    # The classes of mindnlp are those of transformers, over its replacement of torch.
    bases = {f"{base.__module__.split('.')[0]}.{base.__name__}" for base in type(text_encoder).__mro__}
    if "mindtorch.Module" in bases and type(text_encoder).__name__ == "CLIPTextModel":
        return MindNLPTextEncoder(text_encoder)
    kind = f"{type(text_encoder).__module__}.{type(text_encoder).__name__}"
    raise TypeError(
        f"text_encoder is a {kind}; give the CLIPTextModel of mindone_vq, or of mindnlp "
        "(pip install 'mindone_vq[mindnlp]')."
    )
