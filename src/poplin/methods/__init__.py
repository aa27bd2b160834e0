"""Methods on the one loop: start, sweeps, done. Start at `method.AbstractMethod`; users start at the options.

`PLN(method=poplin.methods.Exact(order=20))`: a method's options, where its name alone does not say enough.
"""

from poplin.methods.options import BBVI as BBVI
from poplin.methods.options import IWAE as IWAE
from poplin.methods.options import MCMC as MCMC
from poplin.methods.options import Amortised as Amortised
from poplin.methods.options import Composite as Composite
from poplin.methods.options import Exact as Exact
from poplin.methods.options import MaximumLikelihood as MaximumLikelihood
from poplin.methods.options import Moments as Moments
from poplin.methods.options import Smoothed as Smoothed
from poplin.methods.options import Variational as Variational

__all__ = [
    "BBVI",
    "IWAE",
    "MCMC",
    "Amortised",
    "Composite",
    "Exact",
    "MaximumLikelihood",
    "Moments",
    "Smoothed",
    "Variational",
]
