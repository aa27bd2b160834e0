"""The tests: laws that hold over tables of instances, one file per room.

Tolerances are said once, in `tolerances.py`; `test_layers.py` holds the structure of the code itself.
"""
