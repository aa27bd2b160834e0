"""How numbers are computed: `jax.jit` with the settings that suit small tables, double precision, JAX's own rules.

Start at `compiled`, through which every program goes, and at `double_precision`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.scipy.linalg import cho_solve

from poplin._errors import InputError

# What poplin takes for granted of JAX, whatever the user's process has set: NaN is a value, keys are Threefry's.
#
# Start at `usual_rules`, inside which every program runs. Loops begin with NaN where nothing has been
# computed, chains count words of Threefry by a row's number: under `jax_debug_nans` or another generator they would
# end in an error. Where nothing unusual is set, nothing is changed.


THREEFRY = "threefry2x32"
RULES: tuple[tuple[Any, Any], ...] = (
    (jax.debug_nans, False),
    (jax.debug_infs, False),
    (jax.default_prng_impl, THREEFRY),
    (jax.numpy_rank_promotion, "allow"),
    (jax.numpy_dtype_promotion, "standard"),
)


@contextlib.contextmanager
def usual_rules() -> Iterator[None]:
    """Inside, this thread computes by the rules that poplin is written for."""
    with contextlib.ExitStack() as changed:
        for rule, usual in RULES:
            if rule.value != usual:
                changed.enter_context(rule(usual))
        yield


# How programs are compiled: `jax.jit` with the settings that suit loops over small tables on a processor.
#
# Start at `compiled`; `meanwhile` and `Compiled.ahead` let one phase of a fit run while the next is compiled. XLA's
# newer way to emit fused loops takes up to three times as long to compile such loops, LLVM's higher levels half as
# long again, and neither runs them faster (`python -m benchmarks.cold`, `python -m benchmarks.run`). Level 0 takes a
# third of the time, but its loops run three times as long: for small tables in a process that fits once, see
# `hurried`. Training of networks is the other way round: see `at_length`.


_WORKER = ThreadPoolExecutor(1, thread_name_prefix="poplin-compile")
USUAL = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}
QUICK = USUAL | {"xla_backend_optimization_level": 0}
LONG = {
    "xla_cpu_use_fusion_emitters": True,
    "xla_backend_optimization_level": 2,
    "xla_cpu_experimental_ynn_fusion_type": "",  # sums with what they sum as one slow call of a library: none
}
MODES = {"usual": USUAL, "quick": QUICK, "long": LONG}
SMALL = 100_000  # numbers in a program's arguments up to which it is worth less to run it fast
_hurried: list[bool] = []
_long: list[bool] = []
_waiting: list[Future[None]] = []  # begun in the other thread
_process: list[int] = []  # in which programs have run
FORKED = (
    "This process was forked from one in which JAX had run: its threads are not here, and a fit would wait for them "
    "for ever. Start processes by multiprocessing.get_context('spawn') (joblib does so by itself), or fork before the "
    "first fit."
)


@contextlib.contextmanager
def hurried(*, tells_all: bool = True) -> Iterator[None]:
    """Inside, programs for small tables are compiled quickly: they will not be used often.

    `tells_all`: of each fit all is asked for, so that what will be needed is compiled while it runs.
    """
    _hurried.append(tells_all)
    try:
        yield
    finally:
        _hurried.pop()


@contextlib.contextmanager
def at_length() -> Iterator[None]:
    """Inside, programs are compiled for many steps of matrix products with fused work between them.

    A step of training takes two thirds of the time, and compiling a second more (`python -m benchmarks.neural`).
    """
    _long.append(True)
    try:
        yield
    finally:
        _long.pop()


def in_a_hurry() -> bool:
    """Whether this process fits one table, and tells all of it."""
    return any(_hurried)


@functools.cache
def settings(mode: str) -> dict[str, Any]:
    """The compiler settings of a mode that this version of XLA knows; none away from the processor."""
    if jax.default_backend() != "cpu":
        return {}
    return {name: value for name, value in MODES[mode].items() if _known(name, value)}


@functools.cache
def _known(name: str, value: Any) -> bool:
    try:
        jax.jit(lambda a: a, compiler_options={name: value})(0.0)
    except jax.errors.JaxRuntimeError:  # a version without it
        return False
    return True


class Compiled:
    """A function compiled once per shape, at its first call; inside another program it becomes part of that."""

    def __init__(self, function: Callable[..., Any], **how: Any) -> None:
        functools.update_wrapper(self, function)
        self._function, self._how = function, how
        self._programs: dict[str, Any] = {}

    def _in(self, mode: str) -> Any:
        """The function as a program of its own."""
        if mode not in self._programs:
            self._programs[mode] = jax.jit(self._function, compiler_options=settings(mode), **self._how)
        return self._programs[mode]

    def programs(self) -> int:
        """For how many shapes it has been compiled."""
        return sum(program._cache_size() for program in self._programs.values())

    def _for(self, leaves: list[Any]) -> Any:
        if _hurried and sum(getattr(leaf, "size", 1) for leaf in leaves) <= SMALL:
            return self._in("quick")
        return self._in("long" if _long else "usual")

    def ahead(self, *args: Any, **kwargs: Any) -> None:
        """Compile for arguments of these shapes, which need not exist yet; a call then finds the program."""
        _check_process()
        with usual_rules():
            self._for(jax.tree.leaves((args, kwargs))).lower(*args, **kwargs).compile()

    def shapes(self, *args: Any, **kwargs: Any) -> Any:
        """The shapes of what it returns for arguments of these shapes."""
        names = self._how.get("static_argnames", ())
        names = (names,) if isinstance(names, str) else names
        fixed = {name: kwargs.pop(name) for name in names if name in kwargs}
        with usual_rules():
            return jax.eval_shape(functools.partial(self._function, **fixed), *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves = jax.tree.leaves((args, kwargs))
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return self._function(*args, **kwargs)
        _check_process()
        with usual_rules():
            return self._for(leaves)(*args, **kwargs)


def _check_process() -> None:
    """Raises `InputError` in a process that is a copy of one with JAX's threads, but without these."""
    if not _process:
        _process.append(os.getpid())
    if _process[0] != os.getpid():
        raise InputError(FORKED)


def meanwhile(work: Callable[[], None]) -> Future[None]:
    """Do this in another thread, in the caller's precision. XLA compiles beside whatever else is running."""
    double, products = jax.config.read("jax_enable_x64"), jax.default_matmul_precision.value

    def in_precision() -> None:
        with usual_rules(), jax.enable_x64(double), jax.default_matmul_precision(products):
            work()

    _waiting[:] = [one for one in _waiting if not one.done() or one.exception()]
    begun = _WORKER.submit(in_precision)
    _waiting.append(begun)
    return begun


def caught_up() -> None:
    """Wait for what is compiled in the other thread, before the same is needed here; raises what went wrong there."""
    while _waiting:
        _waiting.pop(0).result()


def compiled(**how: Any) -> Callable[[Callable[..., Any]], Compiled]:
    """Decorator: `compiled(donate_argnums=..., static_argnames=...)`, as for `jax.jit`."""
    return functools.partial(Compiled, **how)


# Programs that are kept between processes, where a cache is set: an entry is there whole or not at all.
#
# JAX writes an entry where others read it. A process that is killed meanwhile leaves half of it: from then on every
# process that needs the program warns, compiles it again, and leaves the half where it is.


def _keep_programs_whole() -> None:
    """Let JAX's cache of programs move an entry to its place when it is written, over a broken one too."""
    from jax._src import lru_cache

    in_place = lru_cache.LRUCache.put

    def put(self: Any, key: str, value: bytes) -> None:
        if self.eviction_enabled:  # of limited size: it holds a lock, and counts what it holds
            in_place(self, key, value)
            return
        beside = self.path / f"{key}.{os.getpid()}.{threading.get_ident()}"
        try:
            beside.write_bytes(value)
            beside.replace(self.path / f"{key}-cache")
        finally:
            beside.unlink(missing_ok=True)

    lru_cache.LRUCache.put = put


# JAX has no public way; another version may do without.
with contextlib.suppress(ImportError, AttributeError):
    _keep_programs_whole()


# The double-precision door and the small dense algebra that needs it.
#
# Start at `double_precision`: every fit runs inside it, so that importing poplin changes no JAX flag of the user's
# process. Shared matrices (p x p) are factored here, in double; rows may be in single precision.


@contextmanager
def double_precision() -> Iterator[None]:
    """Double precision inside, products of matrices that are not rounded first, one thread for small factorisations.

    An accelerator rounds single-precision factors of a product to ten bits unless told otherwise: the chains of `ml`
    would then be accepted or refused by other rates than theirs. On a processor nothing changes.

    JAX calls the BLAS that SciPy ships for Cholesky and triangular solves. With several threads those spin
    against JAX's own: a 50 x 50 inverse took 17 ms instead of 0.1 ms beside one other busy process.
    """
    import scipy.linalg  # noqa: F401  (loaded first, so that the limit below finds its BLAS)
    from threadpoolctl import threadpool_limits

    with usual_rules(), threadpool_limits(1, user_api="blas"):
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            yield


def inverse_and_logdet(matrix: Array) -> tuple[Array, Array]:
    """Inverse and log-determinant of a symmetric positive definite matrix, by Cholesky, in O(p^3)."""
    lower = jnp.linalg.cholesky(matrix)
    inverse = cho_solve((lower, True), jnp.eye(matrix.shape[-1], dtype=matrix.dtype))
    return inverse, 2 * jnp.sum(jnp.log(jnp.diagonal(lower)))


def solve_gram(gram: Array, right: Array) -> Array:
    """Solve gram @ out = right for a d x d cross-product matrix, scaled to unit diagonal first."""
    scale = 1 / jnp.sqrt(jnp.diagonal(gram))
    inverse, _ = inverse_and_logdet(gram * scale[:, None] * scale[None, :])
    return scale[:, None] * (inverse @ (scale[:, None] * right))
