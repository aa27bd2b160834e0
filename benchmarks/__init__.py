"""Side-by-side measurements of poplin and pyPLNmodels, each figure by one command.

`python -m benchmarks.run` fits every (design, model, contender), each in its own fresh process on the same
arrays, and writes a CSV line a run and a Markdown table; `benchmarks.heldout` compares estimators on left-out
rows, `benchmarks.insample` their likelihoods on the fitted ones, `benchmarks.cold` times the command line
from the shell. Start at `designs.py` (what is fitted), then `bound.py` (how every bound is recomputed), then
`contenders.py`.
"""
