"""Rows that somebody has answered: what the tasks of the field learn from and are measured by."""
