"""What a row knows about its hidden position. Start at `chains.move` or `gaussian.fit_rows`."""
