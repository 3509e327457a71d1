"""An endpoint that speaks OpenAI's images API, and the engine behind it and behind examples/web.py.

``serve run mindone_vq.serving:app`` needs the extra [serve]; ``engine`` does not.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mindone_vq.serving.deployment import make_application
    from mindone_vq.serving.settings import ServingSettings

    return make_application(ServingSettings.from_environment())
