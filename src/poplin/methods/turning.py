"""Turns latent axes until the rows' posteriors are as uncorrelated as they can be: between two variational fits.

Start at `Turning`. The likelihood does not see a rotation of w, a Gaussian that is diagonal in w does. A
gradient method crawls along rotations; solved as a problem of its own, they cost a few sweeps over q x q sums.
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from poplin._axes import Counts, Loadings, Scalar
from poplin.methods.method import AbstractMethod, Sweep
from poplin.rows.batches import all_pairs, precisions

LARGEST = 0.5  # radians that a pair of axes turns in a step at most
FLATTEST = 1e-2  # curvature of a pair, per row, is taken to be this at least
SHORTER = 0.4  # a refused turn is tried again at this share


class Leftover(NamedTuple):
    """Sums over rows, with P_i the posterior precision in the trial frame.

    value: -1/2 sum_i w_i sum_k log P_i,kk (nats); cross_ab = sum_i w_i P_i,ab / P_i,bb; ratio_ab = sum_i w_i
    P_i,aa / P_i,bb; rows = sum_i w_i.
    """

    value: Scalar
    cross: Array
    ratio: Array
    rows: Scalar


class State(NamedTuple):
    """Shared state: C as given, the rotation reached and the one tried (q, q), and the next step's generator."""

    loadings: Loadings
    turn: Array
    trial: Array
    generator: Array
    length: Scalar
    objective: Scalar
    gain: Scalar
    iteration: Array


class Turning(AbstractMethod):
    """Rotate w so that sum_i sum_k log (R' P_i R)_kk is least, P_i = I + C' diag(A_i) C at fixed rates A (n, p).

    By Hadamard's inequality the sum is at least sum_i log det P_i, with equality where all P_i are diagonal; half
    the excess is, to second order, what a bound with diagonal Gaussians loses against one with full ones.
    Each pair of axes takes a Newton step whose curvature is that of nearly diagonal P_i. Stops when a step
    should gain less than `tol` nats a row. Cost of a step: n p q^2 products and n q^2 numbers.
    Source: Pham (2001), Joint approximate diagonalization of positive definite Hermitian matrices.
    """

    tol: Scalar = eqx.field(converter=jnp.asarray)

    def start(self, first: tuple[Loadings, Counts], block):
        loadings, rate = first
        still = jnp.eye(loadings.shape[1])
        state = State(
            loadings=loadings,
            turn=still,
            trial=still,
            generator=jnp.zeros_like(still),
            length=jnp.ones(()),
            objective=jnp.asarray(-jnp.inf),
            gain=jnp.asarray(jnp.inf),
            iteration=jnp.asarray(0),
        )
        return state, rate

    def sweeps(self):
        return (Sweep(self.look, self.step),)

    def look(self, state, rows, block):
        """The sums at the trial rotation."""
        loadings = state.loadings @ state.trial
        precision = precisions(rows, loadings, all_pairs(loadings))
        diagonal = jnp.diagonal(precision, axis1=1, axis2=2)
        weighted = block.weights[:, None] / diagonal
        return rows, Leftover(
            value=-0.5 * block.weights @ jnp.sum(jnp.log(diagonal), axis=1),
            cross=jnp.einsum("nab,nb->ab", precision, weighted),
            ratio=diagonal.T @ weighted,
            rows=jnp.sum(block.weights),
        )

    def step(self, state, total):
        """Keep the trial if the sum fell, and aim at the next one; else a shorter turn."""
        better = total.value >= state.objective
        slope = total.cross.T - total.cross
        curvature = jnp.maximum(total.ratio + total.ratio.T - 2 * total.rows, FLATTEST * total.rows)
        newton = slope / curvature
        newton *= jnp.minimum(1.0, LARGEST / jnp.maximum(jnp.max(jnp.abs(newton)), LARGEST))
        turn = jnp.where(better, state.trial, state.turn)
        generator = jnp.where(better, newton, state.generator)
        length = jnp.where(better, 1.0, SHORTER * state.length)
        # both triangles hold each pair once: a quarter, for half the slope along the step
        gain = jnp.where(better, 0.25 * jnp.sum(slope * newton) / total.rows, state.gain)
        return state._replace(
            turn=turn,
            trial=turn @ rotation(length * generator),
            generator=generator,
            length=length,
            objective=jnp.where(better, total.value, state.objective),
            gain=gain,
            iteration=state.iteration + 1,
        )

    def done(self, state):
        return state.gain <= self.tol

    def failed(self, state):
        return state.length < 1e-6


def rotation(generator: Array) -> Array:
    """The rotation (I - G/2)^-1 (I + G/2) of an antisymmetric G (Cayley); G itself to first order."""
    half = 0.5 * generator
    still = jnp.eye(len(generator), dtype=generator.dtype)
    return jnp.linalg.solve(still - half, still + half)
