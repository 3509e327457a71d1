"""Text encoders of other libraries, behind the interface of our own."""

import os
from typing import Any, Union

import numpy as np

from mindone_vq.text.clip import CLIPTextModel


class MindNLPTextEncoder:
    """mindnlp's CLIPTextModel, run eagerly as that library does; numpy arrays in and out.

    Importing mindnlp changes ``import torch`` and the methods of ``mindspore.Tensor`` for the whole process, so
    nothing here does it before a model of mindnlp's is asked for or given.

    Args:
        model: ``mindnlp.transformers.CLIPTextModel``.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        self.max_length = model.config.max_position_embeddings
        self.hidden_size = model.config.hidden_size

    @classmethod
    def from_pretrained(cls, folder: Union[str, os.PathLike]) -> "MindNLPTextEncoder":
        """Loads the text encoder of a pipeline folder, or a hub id, by mindnlp.

        Raises:
            ImportError: mindnlp is not installed; says how to.
        """
        try:
            from mindnlp.transformers import CLIPTextModel as MindNLPModel
        except ImportError as error:
            raise ImportError(
                "This needs mindnlp, which is not installed: pip install 'mindone_vq[mindnlp]', in an environment "
                "of its own because of the versions it is tied to."
            ) from error
        return cls(MindNLPModel.from_pretrained(folder))

    def __call__(self, input_ids: np.ndarray) -> np.ndarray:
        """(batch, length) integers -> the last hidden state, (batch, length, hidden_size) float32."""
        import mindtorch as torch  # comes with mindnlp

        with torch.no_grad():
            output = self.model(input_ids=torch.tensor(input_ids.astype(np.int64)))
        return output.last_hidden_state.to(torch.float32).numpy()


def adapt_tokenizer(tokenizer: Any) -> Any:
    """``tokenizer``, if it is one: ours, or one with the interface of transformers' CLIPTokenizer.

    Raises:
        TypeError: it has not.
    """
    missing = [name for name in ("encode", "decode", "model_max_length", "__call__") if not hasattr(tokenizer, name)]
    if missing:
        raise TypeError(f"tokenizer is a {type(tokenizer).__name__} without {missing[0]}: give a CLIPTokenizer.")
    return tokenizer


def adapt_text_encoder(text_encoder: Any) -> Any:
    """``text_encoder`` as the pipeline calls it.

    Raises:
        TypeError: neither our CLIPTextModel nor mindnlp's.
    """
    if isinstance(text_encoder, (CLIPTextModel, MindNLPTextEncoder)):
        return text_encoder
    # mindnlp's classes are transformers' own, over its replacement of torch
    bases = {f"{base.__module__.split('.')[0]}.{base.__name__}" for base in type(text_encoder).__mro__}
    if "mindtorch.Module" in bases and type(text_encoder).__name__ == "CLIPTextModel":
        return MindNLPTextEncoder(text_encoder)
    kind = f"{type(text_encoder).__module__}.{type(text_encoder).__name__}"
    raise TypeError(
        f"text_encoder is a {kind}; give the CLIPTextModel of mindone_vq, or mindnlp's "
        "(pip install 'mindone_vq[mindnlp]')."
    )
