"""Slow NumPy twins of the bounds, one row and one column at a time, written from the formulas and nothing else.

Start at `direct_terms` and `factor_terms`: they return what each row adds. `profiled` puts B and Sigma at their best.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tests.instances import Table


def poisson_terms(table: Table, predictor: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """sum_j E[log Poisson(y_ij; e^eta_ij)] with eta_ij ~ N(predictor, spread), over the counts that are there, (n,)."""
    out = np.zeros(len(table.y))
    for i, j in zip(*np.nonzero(~np.isnan(table.y)), strict=True):
        y = table.y[i, j]
        out[i] += y * predictor[i, j] - math.exp(predictor[i, j] + spread[i, j] / 2) - math.lgamma(y + 1)
    return out


def empty_column_prior(table: Table, predictor: np.ndarray) -> float:
    """Half a count, spread in proportion to exposure, over every column that has none."""
    total = 0.0
    for j in range(table.y.shape[1]):
        there = ~np.isnan(table.y[:, j])
        weights = table.weights * there
        if not np.any(weights * np.nan_to_num(table.y[:, j])):
            share = np.exp(table.offset[:, j]) / (weights @ np.exp(table.offset[:, j]))
            total += 0.5 * np.sum(weights * share * predictor[:, j])
    return total


def direct_terms(table: Table, mean, log_sd, coef, covariance) -> np.ndarray:
    """What each row adds to the direct bound with q(Z_i) = N(m_i, diag s_i^2), (n,)."""
    p = table.y.shape[1]
    out = poisson_terms(table, table.offset + mean, np.exp(2 * log_sd))
    precision, logdet = np.linalg.inv(covariance), np.linalg.slogdet(covariance)[1]
    for i in range(len(out)):
        residual, spread = mean[i] - table.x[i] @ coef, np.diag(np.exp(2 * log_sd[i]))
        quadratic = residual @ precision @ residual + np.trace(precision @ spread)
        out[i] -= 0.5 * (quadratic - 2 * log_sd[i].sum() + logdet - p)
    return out


def factor_terms(table: Table, mean, covariance, coef, loadings) -> np.ndarray:
    """What each row adds to the factor bound with q(w_i) = N(m_i, S_i), S (n, q, q), (n,)."""
    predictor = table.offset + table.x @ coef + mean @ loadings.T
    spread = np.stack([np.diag(loadings @ s @ loadings.T) for s in covariance])
    out = poisson_terms(table, predictor, spread)
    for i, s in enumerate(covariance):
        out[i] -= 0.5 * (mean[i] @ mean[i] + np.trace(s) - np.linalg.slogdet(s)[1] - len(s))
    return out


def direct_value(table: Table, mean, log_sd, coef, covariance) -> float:
    """The direct bound of a table."""
    rows = direct_terms(table, mean, log_sd, coef, covariance)
    return float(table.weights @ rows) + empty_column_prior(table, table.offset + mean)


def factor_value(table: Table, mean, covariance, coef, loadings) -> float:
    """The factor bound of a table."""
    rows = factor_terms(table, mean, covariance, coef, loadings)
    predictor = table.offset + table.x @ coef + mean @ loadings.T
    return float(table.weights @ rows) + empty_column_prior(table, predictor)


def diagonals(log_sd: np.ndarray) -> np.ndarray:
    """diag(s_i^2) for every row, (n, q, q)."""
    return np.stack([np.diag(np.exp(2 * s)) for s in log_sd])


def second_moment(table: Table, mean, log_sd, coef) -> np.ndarray:
    """Weighted mean of E[(Z - XB)(Z - XB)'] over rows, (p, p)."""
    total = np.zeros((table.y.shape[1],) * 2)
    for i, weight in enumerate(table.weights):
        residual = mean[i] - table.x[i] @ coef
        total += weight * (np.outer(residual, residual) + np.diag(np.exp(2 * log_sd[i])))
    return total / table.weights.sum()


def best_coef(table: Table, mean: np.ndarray) -> np.ndarray:
    """Weighted least squares of M on X."""
    root = np.sqrt(table.weights)[:, None]
    return np.linalg.lstsq(root * table.x, root * mean, rcond=None)[0]


def divergence(target: np.ndarray, covariance: np.ndarray) -> float:
    """Kullback-Leibler divergence of N(0, covariance) from N(0, target), in nats."""
    ratio = np.linalg.solve(covariance, target)
    return 0.5 * float(np.trace(ratio) - len(target) - np.linalg.slogdet(ratio)[1])


def penalised(table: Table, mean, log_sd, coef, covariance, *, kappa: float) -> float:
    """The direct bound less kappa divergences from independent columns."""
    target = np.diag(np.diag(second_moment(table, mean, log_sd, coef)))
    cost = kappa * divergence(target, covariance) if kappa else 0.0
    return direct_value(table, mean, log_sd, coef, covariance) - cost


def profiled(
    table: Table, mean, log_sd, *, estimate: Callable[[np.ndarray, float], np.ndarray], kappa: float
) -> float:
    """The direct bound with B and Sigma at their best; `estimate` makes Sigma of the second moment and N."""
    coef = best_coef(table, mean)
    covariance = estimate(second_moment(table, mean, log_sd, coef), table.weights.sum())
    return penalised(table, mean, log_sd, coef, covariance, kappa=kappa)


def slope_along(function: Callable[[float], float], step: float = 1e-3) -> float:
    """Derivative at 0 of a function of one number, by central differences of fourth order."""
    near = function(step) - function(-step)
    far = function(2 * step) - function(-2 * step)
    return (8 * near - far) / (12 * step)
