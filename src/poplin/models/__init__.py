"""What a model is made of: how (B, C) depend on free parameters. Start at `loadings.AbstractLoadings`."""
