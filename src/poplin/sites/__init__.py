"""Several sites, one set of axes: what leaves a site, and how it is pooled. Start at `plan.py`, then `summaries.py`."""
