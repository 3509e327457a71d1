import sys

import pytest

from mindone_vq.text.foreign import MindNLPTextEncoder, adapt_text_encoder


def test_without_mindnlp_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mindnlp", None)
    monkeypatch.setitem(sys.modules, "mindnlp.transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'mindone_vq\[mindnlp\]'"):
        MindNLPTextEncoder.from_pretrained("anywhere")


def test_what_is_no_text_encoder_is_refused():
    with pytest.raises(TypeError, match=r"mindone_vq\[mindnlp\]"):
        adapt_text_encoder(lambda ids: ids)
