"""Models made narrower: what they cost, and whether they still say the same."""
