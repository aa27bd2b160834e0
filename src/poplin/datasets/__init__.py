"""Public tables of counts, downloaded once, checked and kept: start at `fetch`; `names` lists them, `describe` tells.

`catalogue` says what there is and how it is read, `download` where it is kept, `reading` makes tables of the files.
"""

from poplin.datasets.catalogue import describe as describe
from poplin.datasets.catalogue import fetch as fetch
from poplin.datasets.catalogue import names as names

__all__ = ["describe", "fetch", "names"]
