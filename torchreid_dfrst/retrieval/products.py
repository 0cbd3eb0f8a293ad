"""Tiles of the matrix of inner products, made by whichever routine of this machine is fastest."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import torch

from torchreid_dfrst.retrieval.embeddings import Stack, consecutive, full_precision, tensor

logger = logging.getLogger(__name__)

UNIT = 2.0**-24
SMALL = 2e10
"""Multiplications below which it is not worth finding out which routine is fastest."""
SETTLING = 1e-4
"""Seconds a row that bfloat16 has to save to be used unasked: what its wider lists cost (4e-5 to 1e-4 measured)."""
CELLS = 1 << 17
"""Numbers of embeddings that are looked at in float64 at once."""
SHARED = 0.2
"""Length from which on the mean of all embeddings is taken off before they are rounded to bfloat16."""

Tile = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _onednn(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.linear(a.to_mkldnn(), b).to_dense()


def _torch(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.mm(a, b.t())


# not NumPy's: the threads of its OpenBLAS spin for a tenth of a second after each product and halve what comes next
FLOAT32: dict[str, Tile] = {"torch": _torch, "onednn": _onednn}


@lru_cache(maxsize=8)
def rates(threads: int) -> dict[str, float]:
    """Multiply-add rate of each routine on this processor, in 1e9 operations a second (two to a multiply-add).

    ``threads`` is torch's number of threads; the measurement (some 0.2 s) is made once for each.
    """
    a, b = torch.rand(256, 1024, dtype=torch.float32), torch.rand(2048, 1024, dtype=torch.float32)
    candidates: dict[str, Callable[[], torch.Tensor]] = {
        name: partial(routine, a, b) for name, routine in FLOAT32.items()
    }
    candidates["bfloat16"] = partial(_torch, a.bfloat16(), b.bfloat16())
    least: dict[str, float] = {}
    # in two turns, so that a slow moment of the machine does not fall on one of them; several times in a row, because
    # the threads of the routine before go on waiting for work for some milliseconds and take the cores meanwhile
    for _ in range(2):
        for name, run in list(candidates.items()):
            for _ in range(6):
                start = time.perf_counter()
                try:
                    with full_precision():
                        run()
                except RuntimeError as error:
                    logger.info("%s cannot multiply here (%s)", name, error)
                    del candidates[name]
                    break
                least[name] = min(least.get(name, np.inf), time.perf_counter() - start)
    found = {name: 2e-9 * len(a) * len(b) * a.shape[1] / least[name] for name in candidates}
    logger.info("products a second with %d threads: %s", threads, found)
    return found


def float32_error(width: int) -> float:
    """Bound on the error of one float32 product of unit vectors, whatever the order it is summed in.

    No partial sum is above 1, so each of the D additions rounds by at most ``u / 2``, u = 2**-24; ``8 u`` are for
    lengths off by up to ``embeddings.EXACT = 4 u``. Non-negative features and a routine that adds term after term
    (oneDNN's) reach a quarter of it: their roundings do not cancel. Below 64 dimensions it is ``random_error``, so that
    whatever counts as a near-tie is looked at.
    """
    return max((width / 2 + 8) * UNIT, random_error(width))


def random_error(width: int) -> float:
    """Error of one float32 product that roundings at random hardly ever exceed: seven standard deviations.

    What is called a near-tie is measured by it: which images other float32 code may put in another order.
    """
    return float((4 * np.sqrt(width) + 8) * UNIT)


class Products:
    """Tiles of ``rows @ columns.T``.

    Args:
        rows: embeddings of unit length.
        columns: embeddings of unit length, of the same width.
        precision: ``"fp32"``, ``"bf16"`` or ``"auto"`` (bfloat16 where it is measured to be clearly faster).
        device: where the tiles are made.

    Attributes:
        error: bound on the error of one product: ``float32_error``, and for bfloat16 beside it the Cauchy-Schwarz
            bound ``|e_x| |y| + |x_b| |e_y|`` of the rounded vectors, and ``2**-8 |x| |y|`` for rounding the result.

    What bfloat16 takes from a vector grows with its length. Non-negative features all point the same way; their mean m
    is therefore taken off before they are rounded, and the product is put together again from
    ``(x - m) (y - m) + (x m - m m / 2) + (y m - m m / 2)``.
    """

    def __init__(self, rows: Stack, columns: Stack, precision: str, device: torch.device):
        self.device = device
        routine, self.routine, self.reduced = choose(rows, columns, precision, device)
        self.name = f"{routine}, {'bf16' if self.reduced else 'fp32'}"
        self.error = float32_error(rows.shape[1])
        self._at_once = max(16, CELLS // rows.shape[1])
        self._mean = _common(rows) if self.reduced else None
        if self._mean is not None:
            self._shift = self._along(rows), self._along(columns)
            self.error += 4 * UNIT  # two more sums of three float32 numbers, none above 1
        self._rows = self._place(rows)
        self._columns = self._rows if columns is rows else self._place(columns)
        if self.reduced:
            x, lost = self._lost(rows, self._rows)
            y, other = (x, lost) if columns is rows else self._lost(columns, self._columns)
            # without their mean, vectors and sums may be longer than 1
            self.error += lost * y + x * other + (2.0**-8 + float32_error(rows.shape[1])) * x * y
        self._stacks = rows, columns

    def _place(self, stack: Stack) -> list[torch.Tensor]:
        parts = [tensor(part) for part in stack.parts]
        if not self.reduced:
            return [part.to(self.device) for part in parts]
        result = [torch.empty(part.shape, dtype=torch.bfloat16, device=self.device) for part in parts]
        for part, rounded in zip(parts, result, strict=True):
            for some in consecutive(0, len(part), self._at_once):
                rounded[some] = self._centred(part[some])
        return result

    def _centred(self, rows: torch.Tensor) -> torch.Tensor:
        return rows if self._mean is None else rows - self._mean

    def _along(self, stack: Stack) -> torch.Tensor:
        """``x m - m m / 2`` of every row, float32."""
        assert self._mean is not None
        mean = self._mean.numpy().astype(np.float64)
        parts = [part[some] @ mean for part in stack.parts for some in consecutive(0, len(part), self._at_once)]
        along = np.concatenate(parts) - mean @ mean / 2
        return torch.from_numpy(along.astype(np.float32)).to(self.device)

    def _lost(self, stack: Stack, placed: list[torch.Tensor]) -> tuple[float, float]:
        """Largest length of a rounded vector and of what rounding took from one."""
        length = lost = 0.0
        for part, rounded in zip(stack.parts, placed, strict=True):
            for some in consecutive(0, len(part), self._at_once):
                exact = self._centred(tensor(part[some]).double())
                near = rounded[some].double().cpu()
                length = max(length, float(near.norm(dim=1).max()), float(exact.norm(dim=1).max()))
                lost = max(lost, float((exact - near).norm(dim=1).max()))
        return length * (1 + 1e-5), lost * (1 + 1e-5)

    def tile(self, rows: slice, columns: slice) -> torch.Tensor:
        """Products of a block of rows and a block of columns: a new float32 tensor."""
        a = self._cut(self._stacks[0], self._rows, rows)
        with full_precision():
            product = self.routine(a, self._cut(self._stacks[1], self._columns, columns))
        if self._mean is None:
            return product.float()
        return (product + self._shift[1][columns]).add_(self._shift[0][rows, None])

    @staticmethod
    def _cut(stack: Stack, placed: list[torch.Tensor], block: slice) -> torch.Tensor:
        part = stack.part(block.start)
        return placed[part][block.start - stack.edges[part] : block.stop - stack.edges[part]]


def _common(stack: Stack) -> torch.Tensor | None:
    """Mean of the embeddings, float32, where it is long enough for its removal to matter."""
    total = np.sum([part.sum(axis=0, dtype=np.float64) for part in stack.parts], axis=0)
    mean = (total / len(stack)).astype(np.float32)
    return torch.from_numpy(mean) if np.linalg.norm(mean) > SHARED else None


def choose(rows: Stack, columns: Stack, precision: str, device: torch.device) -> tuple[str, Tile, bool]:
    """Name of the routine to use, the routine, and whether it works in bfloat16."""
    work = 2.0 * len(rows) * len(columns) * rows.shape[1]
    if device.type != "cpu" or work < SMALL:
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        reduced = precision == "bf16" or (precision == "auto" and fast and work >= SMALL)
        return f"torch on {device}", _torch, reduced
    speed = rates(torch.get_num_threads())
    best = max(FLOAT32, key=lambda name: speed.get(name, 0.0))
    if precision == "auto" and "bfloat16" in speed:
        made = work / len(rows) / (2 if columns is rows else 1)
        precision = "bf16" if made / 1e9 * (1 / speed[best] - 1 / speed["bfloat16"]) > SETTLING else "fp32"
    if precision == "bf16":
        return "torch", _torch, True
    return best, FLOAT32[best], False
