"""What models, schedulers and pipelines return when ``return_dict=True``."""

from dataclasses import fields
from typing import Any, Union


class Output:
    """Base of the output dataclasses: fields by name, by key, or by position."""

    def to_tuple(self) -> tuple:
        """The fields that are set, in order."""
        values = (getattr(self, field.name) for field in fields(self))
        return tuple(value for value in values if value is not None)

    def __getitem__(self, key: Union[str, int, slice]) -> Any:
        return getattr(self, key) if isinstance(key, str) else self.to_tuple()[key]
