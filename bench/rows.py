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
    budget: str
    holds: bool
    yardstick: str = ""
    yard_samples: Sequence[float] = field(default_factory=tuple)

    @property
    def median(self) -> float:
        """The median of the samples."""
        return statistics.median(self.samples)

    @property
    def p99(self) -> float:
        """The 99th percentile of the samples (nearest rank)."""
        ordered = sorted(self.samples)
        return ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))]

    @property
    def ratio(self) -> float | None:
        """The median over the yardstick's median, None without a yardstick."""
        return self.median / statistics.median(self.yard_samples) if self.yard_samples else None

    def cells(self) -> tuple[str, ...]:
        """Give the row as it stands in the table."""
        ratio = f"{self.ratio:.2f} of {self.yardstick}" if self.ratio is not None else "none"
        return (
            self.what,
            f"{self.median:.3g} {self.unit}",
            f"{self.p99:.3g} {self.unit}",
            str(len(self.samples)),
            ratio,
            self.budget,
            "yes" if self.holds else "no",
        )
