"""Pairs of images that show the same picture in different bytes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from neurogate_core.preprocessing.transform import default_spec, transform

from neurogate_trainer.progress import Reporter

from .index import ImageRecord, usable_cores
from .phash import Floats, block_means, distances, mirrored, to_gray

MAX_DISTANCE = 10
"""Perceptual hashes that differ in more of their 64 bits are not looked at further."""

MIN_CORRELATION = 0.95
"""Thumbnails that correlate less are different pictures; docs/data.md has the measurements behind it."""

_THUMBNAIL = 56
_BLOCK = 1024
_PAIRS_AT_ONCE = 16_384


@dataclass(frozen=True, slots=True)
class NearPairs:
    """N verified pairs; `left` < `right` are positions in the sequence that was searched.

    Attributes:
        left: int64 [N].
        right: int64 [N].
        distance: uint8 [N], Hamming distance of the hashes.
        correlation: float32 [N], of the thumbnails.
        mirrored: bool [N], whether one of the pair is mirrored left to right.
    """

    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    distance: npt.NDArray[np.uint8]
    correlation: Floats
    mirrored: npt.NDArray[np.bool_]

    def most_similar(self, count: int) -> list[int]:
        """Positions of the pairs with the highest correlations, best first."""
        return [int(n) for n in np.argsort(-self.correlation, kind="stable")[:count]]

    def take(self, chosen: npt.NDArray[np.bool_]) -> NearPairs:
        """The pairs for which `chosen` is true."""
        return NearPairs(
            self.left[chosen],
            self.right[chosen],
            self.distance[chosen],
            self.correlation[chosen],
            self.mirrored[chosen],
        )


def find_near_duplicates(
    root: Path, records: Sequence[ImageRecord], *, since: int = 0, reporter: Reporter
) -> NearPairs:
    """Compares all hashes, then the thumbnails of those that are close.

    Pairs of images before the position `since` are known already, so they are not looked for.

    All pairs of hashes are compared in blocks of vectors: about a second for 10,000 images. Only images
    with a close hash are decoded again. Images without structure (one gray level) match nothing.
    """
    candidates = _close_hashes(np.array([record.phash for record in records], np.uint64), since)
    wanted = np.unique(np.concatenate((candidates.left, candidates.right)))
    reporter.phase("audit", total=len(wanted), unit="images")
    thumbnails = np.zeros((len(wanted), _THUMBNAIL, _THUMBNAIL), np.float32)
    with ThreadPoolExecutor(usable_cores()) as pool:
        paths = [root / records[int(position)].path for position in wanted]
        for row, thumbnail in enumerate(pool.map(_normalised_thumbnail, paths)):
            thumbnails[row] = thumbnail
            reporter.advance()
    rows = np.searchsorted(wanted, candidates.left), np.searchsorted(wanted, candidates.right)
    for start in range(0, len(candidates.left), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        left, right = thumbnails[rows[0][part]], thumbnails[rows[1][part]]
        turned = candidates.mirrored[part]
        right[turned] = right[turned, :, ::-1]
        candidates.correlation[part] = np.einsum("nij,nij->n", left, right)
    return _unique(candidates.take(candidates.correlation >= MIN_CORRELATION))


def _close_hashes(hashes: npt.NDArray[np.uint64], since: int) -> NearPairs:
    flipped = mirrored(hashes)
    lefts, rights, found, turned = [], [], [], []
    for start in range(0, len(hashes), _BLOCK):
        block = hashes[start : start + _BLOCK]
        first = max(start, since)
        for others, is_mirrored in ((hashes, False), (flipped, True)):
            between = distances(block, others[first:])
            left, right = np.nonzero(np.triu(between <= MAX_DISTANCE, k=1 - (first - start)))
            lefts.append(left + start)
            rights.append(right + first)
            found.append(between[left, right])
            turned.append(np.full(len(left), is_mirrored))
    if not lefts:
        lefts = rights = found = turned = [np.zeros(0, np.int64)]
    left = np.concatenate(lefts).astype(np.int64)
    return NearPairs(
        left,
        np.concatenate(rights).astype(np.int64),
        np.concatenate(found).astype(np.uint8),
        np.zeros(len(left), np.float32),
        np.concatenate(turned).astype(np.bool_),
    )


def _unique(pairs: NearPairs) -> NearPairs:
    """Sorted by position; a symmetric image that matches both ways counts once, by its better match."""
    order = np.lexsort((pairs.mirrored, -pairs.correlation, pairs.right, pairs.left))
    keys = np.stack((pairs.left[order], pairs.right[order]))
    first = np.ones(len(order), np.bool_)
    first[1:] = np.any(keys[:, 1:] != keys[:, :-1], axis=0)
    chosen = order[first]
    return NearPairs(
        pairs.left[chosen],
        pairs.right[chosen],
        pairs.distance[chosen],
        pairs.correlation[chosen],
        pairs.mirrored[chosen],
    )


def _normalised_thumbnail(path: Path) -> Floats:
    """The gray thumbnail with mean 0 and norm 1 (or all 0 without structure), float32 [56, 56]."""
    gray = block_means(to_gray(transform(path.read_bytes(), default_spec())), _THUMBNAIL)
    centred = gray - gray.mean(dtype=np.float64).astype(np.float32)
    norm = float(np.linalg.norm(centred))
    # Below a standard deviation of half a gray level there is nothing but rounding to compare.
    return centred / np.float32(norm) if norm > 0.5 * _THUMBNAIL else np.zeros_like(centred)
