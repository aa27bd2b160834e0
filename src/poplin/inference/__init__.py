"""After the fit: likelihoods and words. Start at `summary.summary`."""
