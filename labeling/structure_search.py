"""Search for the latent-class model that explains votes best: difficulty, groups of copies, lean to one position."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from labeling.copies import candidate_blocks
from labeling.latent_class import LatentClass, Structure, unpack
from labeling.latent_class_fit import TYPICAL_WEIGHT, Fit, Table, fit_latent_class
from labeling.vote_rows import VoteRows

FloatArray = npt.NDArray[np.float64]
SignArray = npt.NDArray[np.int8]

BLOCK_PRICE = 10.0
"""Log-likelihood by which groups of copies must explain votes better, since there are many ways to group voters."""
VOTER_WORTH = 10.0
"""How much one more separate voter that speaks of it makes a latent variable the likelier preference, in nats."""
TYPICAL_SPREAD = 0.6
"""Standard deviation of the weights of voters before any agreement is seen, in log-odds."""
N_STRENGTHS = 4
"""Classes of equal size that a voter's margins are put into while fitting."""


def best_latent_class(rows: VoteRows, sloped: tuple[int, ...], leaning: tuple[int, ...]) -> Fit:
    """Return the latent-class model that explains the rows best for its number of parameters."""
    plain = Structure(rows.signs.shape[1], sloped=sloped)
    alike = fit_latent_class(vote_table(rows, sloped), plain)
    if contrary := _contrary(alike.model):
        plain = replace(plain, sloped=tuple(j for j in sloped if j not in contrary))
        alike = fit_latent_class(vote_table(rows, plain.sloped), plain)
    table = vote_table(rows, plain.sloped)
    varied = fit_latent_class(table, replace(plain, varied=True))
    best = max(alike, varied, key=lambda fit: fit.score)
    grouped = [
        fit_latent_class(table, replace(plain, blocks=blocks))
        for blocks in candidate_blocks(rows.signs.astype(float), rows.counts, leaning)
    ]
    if grouped and (copies := max(grouped, key=lambda fit: fit.score)).score > best.score + BLOCK_PRICE:
        both = fit_latent_class(table, replace(copies.model.structure, varied=True))
        best = _rooted(max(copies, both, key=lambda fit: fit.score), table)
    if leaning:
        shapes = [replace(best.model.structure, biased=b, uneven=u) for b in ((), leaning) for u in (False, True)]
        best = max((fit_latent_class(table, shape) for shape in shapes), key=lambda fit: fit.score)
    return best


def _contrary(model: LatentClass) -> tuple[int, ...]:
    """Return the voters whose larger margins would say less, or the opposite: evidence has to be monotone."""
    p = unpack(model.structure, model.vector)
    return tuple(int(j) for j in np.flatnonzero(p.weight * p.slope < 0))


def _rooted(best: Fit, table: Table) -> Fit:
    """Return the fit with another latent variable for the preference, if that is as likely and more plausible.

    A tree of latent variables is the same whichever of them is called the preference: votes alone cannot tell.
    """
    for structure in _reroots(best.model.structure):
        other = fit_latent_class(table, structure)
        if _plausibility(other) > _plausibility(best) and other.score > best.score - BLOCK_PRICE:
            best = other
    return best


def _plausibility(fit: Fit) -> float:
    """Return how well a preference fits in with what voters are like: many separate ones, none of them too good."""
    structure, singles = fit.model.structure, list(fit.model.structure.singles)
    odd = (unpack(structure, fit.model.vector).weight[singles] - TYPICAL_WEIGHT) / TYPICAL_SPREAD
    return VOTER_WORTH * (len(singles) + len(structure.blocks)) - float((odd**2).sum()) / 2


def _reroots(structure: Structure) -> Iterator[Structure]:
    if len(structure.singles) > 1:
        for block in structure.blocks:
            others = tuple(other for other in structure.blocks if other != block)
            yield replace(structure, blocks=tuple(sorted((*others, structure.singles))))


def vote_table(rows: VoteRows, sloped: tuple[int, ...]) -> Table:
    """Return the rows with one column for each strength that a voter's votes come in."""
    columns: list[SignArray] = []
    voter: list[int] = []
    strength: list[float] = []
    for j in range(rows.signs.shape[1]):
        votes, sizes = rows.signs[:, j], rows.strengths[:, j]
        edges = _edges(sizes[votes != 0]) if j in sloped else np.empty(0)
        place = np.searchsorted(edges, sizes)
        for step in range(len(edges) + 1):
            inside = (place == step) & (votes != 0)
            if inside.any() or not len(edges):
                columns.append(np.where(inside, votes, 0))
                voter.append(j)
                strength.append(sizes[inside].mean() if j in sloped else 0.0)
    x = np.stack(columns, axis=1)
    kept = (x != 0).any(axis=1)
    x, counts = x[kept], rows.counts[kept]
    if not sloped:
        x, counts = _counted(x, counts)
    return Table((x > 0).astype(float), (x < 0).astype(float), counts, np.array(voter), np.array(strength))


def _edges(sizes: FloatArray) -> FloatArray:
    edges: FloatArray = np.unique(np.quantile(sizes, np.arange(1, N_STRENGTHS) / N_STRENGTHS))
    return edges


def _counted(x: SignArray, counts: FloatArray) -> tuple[SignArray, FloatArray]:
    order = np.lexsort(x.T)
    x, counts = x[order], counts[order]
    new = np.concatenate([[True], (x[1:] != x[:-1]).any(axis=1)]) if len(x) else np.zeros(0, bool)
    return x[new], np.add.reduceat(counts, np.flatnonzero(new)) if len(x) else counts
