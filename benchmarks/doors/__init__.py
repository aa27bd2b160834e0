"""Damaged files at every door: one clear line, or the table that another library reads; start at `__main__.py`."""
