"""Methods on the one loop: start, sweeps, done. Start at `method.AbstractMethod`."""
