"""The budgets, measured: each row prints its figure and, where it can, a ratio to a yardstick of the same run."""
