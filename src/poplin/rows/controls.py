"""What one draw says of a row's mean and second moment, with most of its noise taken out: control variates.

Start at `controlled`. Along a draw v of the row's posterior, the gradient g(v) of its log density has expectation
zero, and E[g v'] = -I (Stein's identity). So for any diagonal c and any point m that do not depend on the draw, with
a = g / c,

    v + a    and    v v' + (v a' + a v') / 2 + (m a' + a m') / 2 + diag(1 / c)

have the expectations of v and of v v'. If the posterior is Gaussian with precision diag(c) and mean m, they have no
variance at all; here they have a tenth of the plain draw's or less. Sources: Assaraf & Caffarel (1999),
Zero-variance principle; Mira, Solgi & Imparato (2013), Zero variance MCMC for Bayesian estimators.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from poplin._axes import Counts, Latent
from poplin.data.blocks import Block
from poplin.rows.chains import Chains, Frame


class Means(NamedTuple):
    """Sums over rows: X'E[W | Y] (d, q) and sum_i weight_i E[w_i w_i' | y_i] (q, q), each estimated from one draw."""

    cross: Array
    second: Array


def controlled(chains: Chains, centre: Latent, rate: Counts, block: Block, frame: Frame) -> Means:
    """The sums from draws w (`chains.position`) with rates `rate` (n, p).

    `centre` (n, q): near the rows' posterior means; c is taken from the chains' mean rates and the counts.
    Neither may follow the present draw. Works in the coordinates of `frame`, in which c is closest to diagonal.
    Cost n p q + n q^2.
    """
    w = chains.position
    slope = (block.y - rate) @ frame.loadings - frame.stiffness * (w @ frame.to_frame)
    # a precision that is too small would overshoot: where much was counted, rates are about the counts
    spread = 1 / (frame.stiffness + jnp.maximum(chains.mean_rate, block.y) @ frame.loadings**2)
    step = (slope * spread) @ frame.from_frame
    weighted = block.weights[:, None] * w
    half = (weighted + block.weights[:, None] * centre).T @ step
    second = w.T @ weighted + 0.5 * (half + half.T)
    second += frame.from_frame.T @ ((block.weights @ spread)[:, None] * frame.from_frame)
    return Means(block.x.T @ (weighted + block.weights[:, None] * step), second)
