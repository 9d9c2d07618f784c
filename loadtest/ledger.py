"""Where a load generator writes what it saw, and how the parts of several generators become one."""

from collections.abc import Iterable

from loadtest.histogram import bucket_of
from loadtest.summary import Cell

# Labels come from the server under test, so their number is bounded here.
MAX_VARIANTS = 32
OTHER = "other"
_Key = tuple[int, str, str, str]


class Ledger:
    """Counts of one generator since the last `take`; bounded by the labels, not by the requests."""

    def __init__(self, slice_s: float) -> None:
        self._slice_s = slice_s
        self._cells: dict[_Key, Cell] = {}
        self._variants: set[str] = set()

    def success(
        self, at_s: float, arm: str, request: str, variant: str, *, latency_s: float, service_s: float, items: int
    ) -> None:
        """Count an answer to the request that was due `at_s` seconds into the run."""
        cell = self._cell(at_s, arm, request, variant)
        _count(cell.latency, latency_s)
        _count(cell.service, service_s)
        cell.items += items

    def failure(self, at_s: float, arm: str, request: str, variant: str, *, kind: str, count: int = 1) -> None:
        """Count requests that got no good answer; `kind` is a status or the name of what happened."""
        errors = self._cell(at_s, arm, request, variant).errors
        errors[kind] = errors.get(kind, 0) + count

    def late(self, at_s: float, arm: str, request: str, delay_s: float) -> None:
        """Count how late the generator itself sent a request that a free connection was waiting for."""
        _count(self._cell(at_s, arm, request, "").late, delay_s)

    def take(self) -> list[Cell]:
        """Everything counted since the last call."""
        cells, self._cells = list(self._cells.values()), {}
        return cells

    def _cell(self, at_s: float, arm: str, request: str, variant: str) -> Cell:
        if variant not in self._variants:
            if len(self._variants) < MAX_VARIANTS:
                self._variants.add(variant)
            else:
                variant = OTHER
        key = (int(at_s / self._slice_s), arm, request, variant)
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = Cell(*key)
        return cell


class Total:
    """Cells of all generators, added up; reports of one slice may arrive in any order and in parts."""

    def __init__(self) -> None:
        self._cells: dict[_Key, Cell] = {}

    def add(self, cells: Iterable[Cell]) -> None:
        """Add what one generator took from its ledger."""
        for new in cells:
            key = (new.slice, new.arm, new.request, new.variant)
            old = self._cells.setdefault(key, new)
            if old is not new:
                for mine, theirs in ((old.latency, new.latency), (old.service, new.service), (old.late, new.late)):
                    _add(mine, theirs)
                for kind, count in new.errors.items():
                    old.errors[kind] = old.errors.get(kind, 0) + count
                old.items += new.items

    def cells(self) -> list[Cell]:
        """All cells in order of time."""
        return [self._cells[key] for key in sorted(self._cells)]


def _count(buckets: dict[int, int], seconds: float) -> None:
    bucket = bucket_of(int(seconds * 1e6))
    buckets[bucket] = buckets.get(bucket, 0) + 1


def _add(into: dict[int, int], more: dict[int, int]) -> None:
    for bucket, count in more.items():
        into[bucket] = into.get(bucket, 0) + count
