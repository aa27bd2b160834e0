"""How programs are compiled: `jax.jit` with the settings that suit loops over small tables on a processor.

Start at `compiled`; `meanwhile` and `Compiled.ahead` let one phase of a fit run while the next is compiled. XLA's
newer way to emit fused loops takes up to three times as long to compile such loops and runs them no faster
(`python -m benchmarks.cold`, `python -m benchmarks.run`), so it is left out where it can be.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
from jax.core import Tracer

_WORKER = ThreadPoolExecutor(1, thread_name_prefix="poplin-compile")
WANTED = {"xla_cpu_use_fusion_emitters": False}


@functools.cache
def settings() -> dict[str, Any]:
    """The compiler settings that this version of XLA knows; none away from the processor."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda a: a, compiler_options=WANTED)(0.0)
    except jax.errors.JaxRuntimeError:  # a version without them
        return {}
    return dict(WANTED)


class Compiled:
    """A function compiled once per shape, at its first call; inside another program it becomes part of that."""

    def __init__(self, function: Callable[..., Any], **how: Any) -> None:
        functools.update_wrapper(self, function)
        self._function, self._how = function, how

    @functools.cached_property
    def program(self) -> Any:
        """The function as its own program."""
        return jax.jit(self._function, compiler_options=settings(), **self._how)

    def ahead(self, *args: Any, **kwargs: Any) -> None:
        """Compile for arguments of these shapes, which need not exist yet; a call then finds the program."""
        self.program.lower(*args, **kwargs).compile()

    def shapes(self, *args: Any, **kwargs: Any) -> Any:
        """The shapes of what it returns for arguments of these shapes."""
        fixed = {name: kwargs.pop(name) for name in self._how.get("static_argnames", ()) if name in kwargs}
        return jax.eval_shape(functools.partial(self._function, **fixed), *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((args, kwargs))):
            return self._function(*args, **kwargs)
        return self.program(*args, **kwargs)


def meanwhile(work: Callable[[], None]) -> Future[None]:
    """Do this in another thread, in the caller's precision. XLA compiles beside whatever else is running."""
    double = jax.config.read("jax_enable_x64")

    def in_precision() -> None:
        with jax.enable_x64(double):
            work()

    return _WORKER.submit(in_precision)


def compiled(**how: Any) -> Callable[[Callable[..., Any]], Compiled]:
    """Decorator: `compiled(donate_argnums=..., static_argnames=...)`, as for `jax.jit`."""
    return functools.partial(Compiled, **how)
