"""Pictures with matplotlib, as `poplin.plots`: each takes a fit and, if wanted, axes to draw on, and returns the axes.

Nothing is shown or saved; that is the caller's choice: `poplin.plots.embedding(fit).figure.savefig("rows.png")`. Rows:
`embedding`, `biplot`, `correlation_circle`. Columns: `heat_map`, `eigenvalues`, `coefficients`. To trust it or not:
`rootogram`, `residuals`, `trace`, `khat`, and `selection` for what `poplin.select` compared.
"""

from poplin.report.plots_checks import khat as khat
from poplin.report.plots_checks import residuals as residuals
from poplin.report.plots_checks import rootogram as rootogram
from poplin.report.plots_checks import selection as selection
from poplin.report.plots_checks import trace as trace
from poplin.report.plots_columns import coefficients as coefficients
from poplin.report.plots_columns import eigenvalues as eigenvalues
from poplin.report.plots_columns import heat_map as heat_map
from poplin.report.plots_rows import biplot as biplot
from poplin.report.plots_rows import correlation_circle as correlation_circle
from poplin.report.plots_rows import embedding as embedding
