"""Kernel families: one folder per idea, from the equation to the loops. See README.md for how to read one."""
