"""The latent-class model: its formulas against enumeration, its fit against simulation and expectation maximisation."""

from __future__ import annotations

from dataclasses import astuple, replace
from itertools import product

import numpy as np
import pytest
from scipy.special import expit, logit

from labeling import latent_class_fit
from labeling.latent_class import CHUNK, LatentClass, Parameters, Structure, unpack
from labeling.latent_class_fit import TYPICAL_WEIGHT, Table, fit_latent_class, objective

M = 5
STRUCTURES = {
    "independent": Structure(M),
    "difficulty": Structure(M, varied=True),
    "copies": Structure(M, blocks=((0, 1),)),
    "two blocks": Structure(M, blocks=((0, 2), (3, 4)), varied=True),
    "strengths": Structure(M, sloped=(1, 3)),
    "lean": Structure(M, biased=(0, 4), uneven=True),
    "all": Structure(M, blocks=((1, 2),), varied=True, sloped=(0, 2, 4), biased=(0, 3), uneven=True),
}
every_structure = pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES.keys())


def drawn_parameters(structure, seed=0):
    rng = np.random.default_rng(seed)
    m = structure.n_voters
    weight = rng.uniform(0.4, 1.2, m)
    weight[[j for block in structure.blocks for j in block]] += 1.0
    return Parameters(
        weight,
        np.where(np.isin(range(m), structure.sloped), rng.uniform(0.3, 0.8, m), 0.0),
        rng.uniform(0.4, 1.0, len(structure.blocks)),
        0.7 if structure.varied else 0.0,
        np.where(np.isin(range(m), structure.biased), rng.uniform(-0.8, 0.8, m), 0.0),
        0.6 if structure.uneven else 0.0,
    )


def packed(structure, p):
    spread = [np.log(p.spread)] if structure.varied else []
    prior = [p.prior] if structure.uneven else []
    slope, bias = p.slope[list(structure.sloped)], p.bias[list(structure.biased)]
    return np.concatenate([p.weight, slope, p.source, spread, bias, prior])


def nodes(p):
    """The nodes of the difficulty and their shares."""
    at, mass = np.polynomial.hermite_e.hermegauss(7)
    return zip(np.exp(p.spread * at), mass / mass.sum(), strict=True) if p.spread else [(1.0, 1.0)]


def enumerated(structure, p, signs, strengths):
    """P(votes, y), (n, 2): every difficulty and every answer of every source, one term after the other."""
    result = np.zeros((len(signs), 2))
    source_of = {j: k for k, block in enumerate(structure.blocks) for j in block}
    for i, (row, strong) in enumerate(zip(signs, strengths, strict=True)):
        for column, y in enumerate((1, -1)):
            for (a, share), z in product(nodes(p), product((1, -1), repeat=len(p.source))):
                of_sources = [expit(a * u * y * answer) for u, answer in zip(p.source, z, strict=True)]
                term = share * expit(y * p.prior) * np.prod(of_sources)
                for j, said in enumerate(row):
                    answer = z[source_of[j]] if j in source_of else a * y
                    eta = (p.weight[j] + p.slope[j] * strong[j]) * answer + p.bias[j]
                    term *= expit(said * eta) if said else 1.0
                result[i, column] += term
    return result


def some_votes(n=25, seed=1):
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1, 0, 1], (n, M), p=[0.4, 0.2, 0.4]).astype(np.int8)
    return signs, np.where(signs != 0, rng.choice([0.5, 1.5], (n, M)), 0.0)


def table_of(signs, strengths, counts):
    """One column for each voter and strength, one row for each row."""
    columns = [(j, g) for j in range(signs.shape[1]) for g in np.unique(strengths[:, j])]
    x = np.stack([np.where(strengths[:, j] == g, signs[:, j], 0) for j, g in columns], axis=1)
    voter, strength = (np.array(part) for part in zip(*columns, strict=True))
    return Table((x > 0).astype(float), (x < 0).astype(float), counts, voter, strength)


def simulated(structure, p, n, seed=0):
    """Signs and strengths of n pairs, and their true preference."""
    rng = np.random.default_rng(seed)
    a, share = (np.array(part) for part in zip(*nodes(p), strict=True))
    scale = rng.choice(a, n, p=share)
    y = np.where(rng.random(n) < expit(p.prior), 1, -1)
    answer = np.repeat((scale * y)[:, None], structure.n_voters, axis=1)
    for block, u in zip(structure.blocks, p.source, strict=True):
        answer[:, block] = np.where(rng.random(n) < expit(scale * u * y), 1, -1)[:, None]
    strengths = rng.choice([0.5, 1.5], answer.shape) * np.isin(range(structure.n_voters), structure.sloped)
    for_a = rng.random(answer.shape) < expit((p.weight + p.slope * strengths) * answer + p.bias)
    return np.where(for_a, 1, -1).astype(np.int8), strengths, y


def distinct(signs, strengths):
    rows, counts = np.unique(np.concatenate([signs, strengths], axis=1), axis=0, return_counts=True)
    m = signs.shape[1]
    return table_of(rows[:, :m].astype(np.int8), rows[:, m:], counts.astype(float))


@every_structure
def test_parameters_are_read_as_they_were_packed(structure):
    p = drawn_parameters(structure)
    for found, put in zip(astuple(unpack(structure, packed(structure, p))), astuple(p), strict=True):
        np.testing.assert_allclose(found, put)


@every_structure
def test_evidence_and_log_odds_are_those_of_enumerating_everything_hidden(structure):
    p = drawn_parameters(structure)
    signs, strengths = some_votes()
    joint = enumerated(structure, p, signs, strengths)
    model = LatentClass(structure, packed(structure, p))
    np.testing.assert_allclose(model.log_evidence(signs, strengths), np.log(joint.sum(axis=1)), atol=1e-12)
    np.testing.assert_allclose(model.log_odds(signs, strengths), np.log(joint[:, 0] / joint[:, 1]), atol=1e-12)


@every_structure
def test_the_probabilities_of_all_rows_sum_to_one(structure):
    model = LatentClass(structure, packed(structure, drawn_parameters(structure)))
    every = np.array(list(product((1, -1), repeat=M)), np.int8)
    assert np.exp(model.log_evidence(every, np.ones(every.shape))).sum() == pytest.approx(1)


@every_structure
def test_the_objective_is_minus_the_likelihood_and_what_the_prior_takes(structure):
    vector = packed(structure, drawn_parameters(structure))
    signs, strengths = some_votes()
    counts = np.arange(1.0, len(signs) + 1)
    value, _ = objective(vector, structure, table_of(signs, strengths, counts), np.ones(len(vector)), 2 + vector)
    evidence = counts @ LatentClass(structure, vector).log_evidence(signs, strengths)
    assert value == pytest.approx(((2 + vector) * (vector - 1) ** 2).sum() / 2 - evidence)


@every_structure
@pytest.mark.parametrize("seed", [0, 1])
def test_the_gradient_is_that_of_finite_differences(structure, seed):
    vector = packed(structure, drawn_parameters(structure, seed))
    signs, strengths = some_votes(seed=seed)
    rest = (structure, table_of(signs, strengths, np.arange(1.0, 26.0)), np.ones(len(vector)), 2 + vector)
    step = 1e-5 * np.eye(len(vector))
    slopes = [(objective(vector + e, *rest)[0] - objective(vector - e, *rest)[0]) / 2e-5 for e in step]
    np.testing.assert_allclose(objective(vector, *rest)[1], slopes, rtol=1e-6, atol=1e-5)


@every_structure
def test_the_fit_recovers_what_votes_were_made_with_within_four_standard_errors(structure):
    truth = packed(structure, p := drawn_parameters(structure))
    signs, strengths, _ = simulated(structure, p, 20_000)
    table = distinct(signs, strengths)
    fit = fit_latent_class(table, structure)
    flat = np.zeros(len(truth))
    step = 1e-4 * np.eye(len(truth))
    curvature = [
        (objective(truth + e, structure, table, flat, flat)[1] - objective(truth - e, structure, table, flat, flat)[1])
        / 2e-4
        for e in step
    ]
    errors = np.sqrt(np.diag(np.linalg.inv(curvature)))
    assert fit.converged
    assert np.median(errors) < 0.15
    assert (np.abs(fit.model.vector - truth) < 4 * errors).all()


def one_coin_by_em(signs, steps=2000):
    """Dawid and Skene (1979) for two answers and one accuracy a voter, row by row; returns log-odds of being right."""
    right = np.full(signs.shape[1], 0.7)
    for _ in range(steps):
        p_a = expit(signs @ logit(right))
        right = np.where(signs > 0, p_a[:, None], np.where(signs < 0, 1 - p_a[:, None], 0)).sum(axis=0)
        right = right / (signs != 0).sum(axis=0)
    return logit(right)


def test_one_coin_by_expectation_maximisation_agrees_but_for_the_prior():
    p = drawn_parameters(STRUCTURES["independent"])
    signs, strengths, _ = simulated(STRUCTURES["independent"], p, 5000)
    signs[np.random.default_rng(9).random(signs.shape) < 0.3] = 0
    fit = fit_latent_class(distinct(signs, strengths), STRUCTURES["independent"])
    by_em = one_coin_by_em(signs, 300)
    np.testing.assert_allclose(fit.model.vector, by_em, atol=0.01)
    np.testing.assert_allclose(fit.model.log_odds(signs), signs @ by_em, atol=0.03)


def test_two_starts_end_in_the_same_place_where_no_gradient_is_left():
    structure = STRUCTURES["two blocks"]
    signs, strengths, _ = simulated(structure, drawn_parameters(structure), 5000)
    table = distinct(signs, strengths)
    fit = fit_latent_class(table, structure)
    again = fit_latent_class(table, structure, start=fit.model.vector * 0.5 + 0.2)
    np.testing.assert_allclose(again.model.vector, fit.model.vector, atol=0.05)
    at_truth = LatentClass(structure, packed(structure, drawn_parameters(structure))).log_evidence(signs).sum()
    assert fit.log_likelihood > at_truth - 1
    assert again.log_likelihood == pytest.approx(fit.log_likelihood, abs=0.01)


@pytest.mark.parametrize("structure", [STRUCTURES["two blocks"], STRUCTURES["all"]], ids=["two blocks", "all"])
def test_started_on_the_wrong_side_the_fit_ends_where_voters_are_right_more_often(structure):
    p = drawn_parameters(structure)
    signs, strengths, _ = simulated(structure, p, 5000)
    table = distinct(signs, strengths)
    fit = fit_latent_class(table, structure)
    turned = [
        replace(p, weight=-p.weight, slope=-p.slope, prior=-p.prior),  # the preference and all sources
        replace(p, **{name: np.where(np.isin(range(M), structure.singles), -1, 1) * getattr(p, name)
                      for name in ("weight", "slope")}, source=-p.source, prior=-p.prior),
    ]  # fmt: skip
    for wrong in turned:
        other = fit_latent_class(table, structure, start=packed(structure, wrong))
        assert other.log_likelihood == pytest.approx(fit.log_likelihood, abs=0.05)
        np.testing.assert_allclose(other.model.vector, fit.model.vector, atol=0.1)


def test_the_likelihood_reported_is_that_of_the_votes_and_the_score_charges_every_parameter():
    signs, strengths = some_votes(200)
    for structure in STRUCTURES.values():
        fit = fit_latent_class(table_of(signs, strengths, np.ones(200)), structure)
        assert fit.log_likelihood == pytest.approx(fit.model.log_evidence(signs, strengths).sum())
        assert fit.score == pytest.approx(fit.log_likelihood - len(fit.model.vector) / 2 * np.log(200))


def test_a_voter_that_never_votes_is_thought_as_good_as_any():
    signs, strengths, _ = simulated(STRUCTURES["independent"], drawn_parameters(STRUCTURES["independent"]), 500)
    signs[:, 3] = 0
    fit = fit_latent_class(distinct(signs, strengths), STRUCTURES["independent"])
    assert fit.model.vector[3] == pytest.approx(TYPICAL_WEIGHT, abs=1e-3)


def test_no_voter_is_surer_than_one_in_four_hundred():
    unanimous = np.repeat(np.array([[1], [-1]], np.int8), M, axis=1)
    table = table_of(unanimous, np.zeros(unanimous.shape), np.full(2, 1e9))
    assert np.abs(fit_latent_class(table, STRUCTURES["independent"]).model.vector).max() == 6


def test_steps_running_out_are_reported(monkeypatch):
    monkeypatch.setattr(latent_class_fit, "MAX_STEPS", 1)
    signs, strengths = some_votes(200)
    assert not fit_latent_class(table_of(signs, strengths, np.ones(200)), STRUCTURES["difficulty"]).converged


@every_structure
def test_exchanging_the_responses_negates_the_log_odds_where_lean_and_prior_are_exchanged_too(structure):
    p = drawn_parameters(structure)
    signs, strengths = some_votes()
    turned = replace(p, bias=-p.bias, prior=-p.prior)
    one, other = (LatentClass(structure, packed(structure, x)) for x in (p, turned))
    np.testing.assert_allclose(other.log_odds(-signs, strengths), -one.log_odds(signs, strengths), atol=1e-12)


@every_structure
def test_no_row_depends_on_the_rows_around_it(structure):
    model = LatentClass(structure, packed(structure, drawn_parameters(structure)))
    signs, strengths = (np.tile(part, (CHUNK // 20, 1)) for part in some_votes())
    log_odds = model.log_odds(signs, strengths)
    assert len(signs) > CHUNK
    assert np.array_equal(log_odds, np.tile(log_odds[:25], CHUNK // 20))
    assert np.array_equal(model.log_odds(signs[3:4], strengths[3:4]), log_odds[3:4])


def test_a_row_where_nobody_votes_has_the_odds_of_the_prior():
    p = drawn_parameters(STRUCTURES["all"])
    model = LatentClass(STRUCTURES["all"], packed(STRUCTURES["all"], p))
    assert model.log_odds(np.zeros((1, M), np.int8)) == pytest.approx(p.prior)
    assert model.log_evidence(np.zeros((1, M), np.int8)) == pytest.approx(0)


def test_without_strengths_the_weight_at_strength_nought_counts():
    structure = STRUCTURES["strengths"]
    model = LatentClass(structure, packed(structure, drawn_parameters(structure)))
    signs, _ = some_votes()
    np.testing.assert_allclose(model.log_odds(signs), signs @ unpack(structure, model.vector).weight, atol=1e-12)
