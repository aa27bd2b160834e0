"""The axis letters of the house, and the array types that carry them.

n rows (patients, cells, sites), p columns (codes, genes, species), d covariates, q latent dimensions, s Monte-Carlo
draws. `Float["n p"]`-style names only document shapes; nothing is computed here.
"""

from jax import Array
from jaxtyping import Float

Rows = Float[Array, " n"]
Counts = Float[Array, "n p"]
Covariates = Float[Array, "n d"]
Coefficients = Float[Array, "d p"]
Loadings = Float[Array, "p q"]
Latent = Float[Array, "n q"]
Covariance = Float[Array, "p p"]
Scalar = Float[Array, ""]
