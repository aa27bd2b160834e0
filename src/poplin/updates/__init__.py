"""M-steps: how a model follows the rows' sums. Start at `structure.AbstractStructure`."""
