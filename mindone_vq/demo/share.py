"""A share of pictures with its confidence interval."""

from dataclasses import dataclass
from typing import Any

from scipy.stats import binomtest


@dataclass(frozen=True)
class Share:
    """``hits`` out of ``count``, at least one."""

    hits: int
    count: int

    @property
    def value(self) -> float:
        return self.hits / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval, which stays within 0 and 1."""
        low, high = binomtest(self.hits, self.count).proportion_ci(method="wilson")
        return float(low), float(high)

    def to_dict(self) -> dict[str, Any]:
        return {"hits": self.hits, "count": self.count, "share": self.value, "interval": list(self.interval)}
