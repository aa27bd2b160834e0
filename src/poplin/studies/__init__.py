"""Data with known truth, and what estimators make of them.

Start at `simulate.simulate`, which draws a table of counts from a Poisson-lognormal model.
"""
