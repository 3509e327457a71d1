"""Settings of the endpoint, from environment variables."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Optional

# The names in the tables of the same names, which cannot be imported without MindSpore.
SAMPLERS = ("ancestral", "purity", "confidence", "halton")
FLOAT_TYPES = ("float32", "float16", "bfloat16")
PREFIX = "MINDONE_VQ_"


@dataclass(frozen=True)
class ServingSettings:
    """Each field is read from the environment variable ``MINDONE_VQ_`` and its name in capitals.

    Attributes:
        model: a bundled model by name, a pipeline folder, or a hub id.
        dtype: of the weights: float32, float16 or bfloat16.
        api_key: that every request must bring as its bearer token; none: everybody may ask.
        batch_sizes: that are compiled.
        samplers: that may be asked for, and are compiled at the start.
        most_waiting: pictures in the queue of a replica, beyond which it refuses.
        most_pictures: of a request.
        most_steps: of a request.
        steps: of a request that does not say.
        timeout: seconds after which a request is given up.
        most_bytes: of the body of a request.
        most_pixels: of a picture that is sent to be edited.
        replicas, most_replicas: at the start and at least; and at most, as the load asks.
        cpus, npus: of a replica.
    """

    model: str = "shapes"
    dtype: str = "float32"
    api_key: str = ""
    batch_sizes: tuple[int, ...] = (1, 4, 16)
    samplers: tuple[str, ...] = ("ancestral", "confidence")
    most_waiting: int = 64
    most_pictures: int = 10
    most_steps: int = 100
    steps: int = 100
    timeout: float = 120.0
    most_bytes: int = 8 << 20
    most_pixels: int = 4096 * 4096
    replicas: int = 1
    most_replicas: int = 1
    cpus: float = 1.0
    npus: float = 0.0

    def __post_init__(self) -> None:
        if self.dtype not in FLOAT_TYPES:
            raise ValueError(f"dtype is {self.dtype!r}; it must be {', '.join(FLOAT_TYPES)}.")
        if self.most_replicas < self.replicas:
            raise ValueError(f"most_replicas is {self.most_replicas}, fewer than the {self.replicas} of replicas.")
        if not self.batch_sizes or min(self.batch_sizes) < 1 or not self.samplers:
            raise ValueError("batch_sizes and samplers must have at least one entry; batch sizes are at least 1.")
        for name in set(self.samplers) - set(SAMPLERS):
            raise ValueError(f"samplers has {name!r}; there are {', '.join(SAMPLERS)}.")
        if self.most_pictures > max(self.batch_sizes):
            raise ValueError(
                f"most_pictures is {self.most_pictures}, more than the largest of batch_sizes, {max(self.batch_sizes)}."
            )

    @classmethod
    def from_environment(cls, environment: Optional[Mapping[str, str]] = None) -> "ServingSettings":
        """Reads the environment.

        Raises:
            ValueError: a variable cannot be read, or has no meaning.
        """
        environment = os.environ if environment is None else environment
        given = {}
        for each in fields(cls):
            variable = PREFIX + each.name.upper()
            if text := environment.get(variable):
                try:
                    given[each.name] = _read(text, each.default)
                except ValueError as error:
                    raise ValueError(f"{variable} is {text!r}: {error}.") from error
        return cls(**given)


def _read(text: str, default: Any) -> Any:
    """``text`` as a value of the type of ``default``; the entries of a tuple are separated by commas."""
    if isinstance(default, tuple):
        return tuple(_read(part.strip(), default[0]) for part in text.split(","))
    return type(default)(text)
