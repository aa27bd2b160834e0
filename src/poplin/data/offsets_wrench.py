"""The offset of Kumar et al. (2018): how a row's composition differs from the mean one, where many counts are zero.

Start at `log_factors`. With shares s_ij = y_ij / N_i, reference m_j = mean_i s_ij and ratios r_ij = s_ij / m_j:

1. A column's chance of a zero, pi_ij: logistic regression of "is zero" on log N_i, without intercept.
2. A column's variance v_j of log positive counts around its groups' means and log N_i, pulled to the other columns'
   by the empirical-Bayes rule for variances (Smyth 2004).
3. Ratios pulled to those of the row's group g, whose ratios have mean t_g and log variance w_g: with e_ij = log(r_ij /
   t_g), row effect a_i = sum_j e_ij / (v_j + w_g) / sum_j 1 / (v_j + w_g) over positive counts, the pulled ratio
   is t_g exp(a_i + w_g / (v_j + w_g) (e_ij - a_i)); a zero stays zero.
4. size_i = N_i c_i, c_i the weighted mean over j of the pulled ratios over exp(v_j / 2), with weights
   1 / ((1 - pi_ij) (pi_ij + exp(v_j + w_g) - 1)). Sizes have geometric mean one.

The authors' program also reads the variance of a column with too few positive counts off a smooth trend; here it is
the prior variance of step 2, which is what the empirical-Bayes rule says where there is no data.
"""

from __future__ import annotations

import numpy as np

SMALLEST = 1e-12  # a variance that is zero (proportional rows) would be an infinite weight
NEWTON_STEPS = 50


def log_factors(y: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Log of the sizes (n,) for counts y (n, p), without empty rows or columns; group (n,) from 0."""
    total = y.sum(axis=1)
    zero_chance = chance_of_zero(y == 0, np.log(total))
    variance = log_variances(y, group)
    ratio = y / total[:, None]
    ratio, spread = pulled_ratios(ratio / ratio.mean(axis=0), y, group, variance)
    weight = 1 / ((1 - zero_chance) * (zero_chance + np.expm1(variance + spread[:, None])))
    weight = np.where(zero_chance < 1, weight, 0.0)
    composition = (weight * ratio / np.exp(variance / 2)).sum(axis=1) / weight.sum(axis=1)
    sizes = np.log(total) + np.log(composition)
    return sizes - sizes.mean()


def chance_of_zero(zero: np.ndarray, log_total: np.ndarray) -> np.ndarray:
    """Fitted P(zero), (n, p): logit P = b_j log N_i, by Newton steps from 0; a column without zeros has none."""
    x = np.maximum(log_total, np.finfo(float).tiny)[:, None]
    slope = np.zeros(zero.shape[1])
    for _ in range(NEWTON_STEPS):
        chance = _logistic(x * slope)
        gradient = (x * (zero - chance)).sum(axis=0)
        curvature = (x**2 * chance * (1 - chance)).sum(axis=0)
        step = gradient / np.maximum(curvature, np.finfo(float).tiny)
        slope = np.clip(slope + np.clip(step, -1, 1), -700, 700)
        if np.max(np.abs(step)) < 1e-12:
            break
    return np.where(zero.any(axis=0), _logistic(x * slope), 0.0)


def _logistic(value: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(value / 2))


def log_variances(y: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Variance (p,) of a column's log positive counts given group and log total, pulled to the others'."""
    depth = np.log(y.sum(axis=1))
    design = np.column_stack([np.eye(group.max() + 1)[group], depth - depth.mean()])
    variance, freedom = np.zeros(y.shape[1]), np.zeros(y.shape[1])
    for j, column in enumerate(y.T):
        seen = column > 0
        fitted, _, rank, _ = np.linalg.lstsq(design[seen], np.log(column[seen]), rcond=None)
        freedom[j] = seen.sum() - rank
        if freedom[j] > 0:
            variance[j] = np.sum((np.log(column[seen]) - design[seen] @ fitted) ** 2) / freedom[j]
    return np.maximum(squeezed(variance, freedom), SMALLEST)


def squeezed(variance: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """Posterior mean variances (p,): (d_0 s_0^2 + d_j s_j^2) / (d_0 + d_j) (Smyth 2004, section 6.2).

    s_0^2 and d_0 come from the mean and variance of log s_j^2; where these vary no more than chance, d_0 is infinite.
    A column without degrees of freedom (d_j = 0) has s_0^2.
    """
    from scipy.special import digamma, polygamma

    known = (freedom > 0) & (variance > SMALLEST)
    if not known.any():
        return variance
    half, logs = freedom[known] / 2, np.log(variance[known])
    e = logs - digamma(half) + np.log(half)
    center = e.mean()
    extra = ((e - center) ** 2).sum() / max(known.sum() - 1, 1) - polygamma(1, half).mean()
    if extra <= 0:
        return np.full(len(variance), np.exp(center))
    prior = inverse_trigamma(float(extra))
    level = np.exp(center + digamma(prior) - np.log(prior))
    return (2 * prior * level + freedom * variance) / (2 * prior + freedom)


def inverse_trigamma(value: float) -> float:
    """Y with trigamma(y) = value, by Newton steps on 1 / trigamma, which is nearly straight."""
    from scipy.special import polygamma

    y = 0.5 + 1 / value
    for _ in range(NEWTON_STEPS):
        now = float(polygamma(1, y))
        step = now * (1 - now / value) / float(polygamma(2, y))
        y += step
        if abs(step) < 1e-12 * y:
            break
    return y


def pulled_ratios(
    ratio: np.ndarray, y: np.ndarray, group: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ratios (n, p) pulled to their group's, and the variance of the group's log ratios for each row (n,)."""
    reference = (y / y.sum(axis=1, keepdims=True)).mean(axis=0)
    pooled = np.stack([y[group == g].sum(axis=0) for g in range(group.max() + 1)])
    pooled = pooled / pooled.sum(axis=1, keepdims=True) / reference
    level = pooled.mean(axis=1)[group]
    spread = np.array(
        [np.var(np.log(one[one > 0]), ddof=1) if (one > 0).sum() > 1 else 0.0 for one in pooled]
    )
    spread = np.maximum(spread, SMALLEST)[group]
    seen = y > 0
    effect = np.log(np.where(seen, ratio, 1.0) / level[:, None])
    weight = np.where(seen, 1 / (variance + spread[:, None]), 0.0)
    row = (weight * effect).sum(axis=1) / weight.sum(axis=1)
    share = spread[:, None] / (variance + spread[:, None])
    pulled = level[:, None] * np.exp(row[:, None] + share * (effect - row[:, None]))
    return np.where(seen, pulled, 0.0), spread
