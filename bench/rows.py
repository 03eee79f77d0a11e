"""What a measured row is, and how rows are summarised: medians and ratios, never single runs."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Row:
    """A measured row: what, in which unit, its samples, the yardstick's samples, and the budget in words."""

    what: str
    unit: str
    samples: Sequence[float]
    budget: str = "none"
    holds: bool | None = None
    """Whether the budget holds; None where there is none, and the figure is for information."""
    yardstick: str = ""
    yard_samples: Sequence[float] = field(default_factory=tuple)

    @property
    def median(self) -> float:
        """The median of the samples."""
        return statistics.median(self.samples)

    @property
    def p99(self) -> float:
        """The 99th percentile of the samples (nearest rank): of few samples, the largest."""
        return percentile(self.samples, 0.99)

    @property
    def ratio(self) -> float | None:
        """The median over the yardstick's median, None without a yardstick."""
        return ratio(self.samples, self.yard_samples) if self.yard_samples else None

    def cells(self) -> tuple[str, ...]:
        """Give the row as it stands in the table."""
        against = "none"
        if self.ratio is not None:
            against = f"{self.ratio:.2f} of {shown(statistics.median(self.yard_samples))} ({self.yardstick})"
        return (
            self.what,
            f"{shown(self.median)} {self.unit}",
            f"{shown(self.p99)} {self.unit}",
            str(len(self.samples)),
            against,
            self.budget,
            {True: "yes", False: "**no**", None: ""}[self.holds],
        )


def shown(value: float) -> str:
    """Write a figure with three digits that mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percentile(samples: Sequence[float], share: float) -> float:
    """Give a percentile of samples by nearest rank; `share` is 0 to 1."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, round(share * len(ordered)))]


def ratio(samples: Sequence[float], yard: Sequence[float]) -> float:
    """Give the median of the samples over the yardstick's."""
    return statistics.median(samples) / statistics.median(yard)
