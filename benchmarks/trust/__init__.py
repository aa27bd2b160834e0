"""Designs that ask whether a fit is as sure as it says; start at `__main__.py`."""
