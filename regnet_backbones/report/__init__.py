"""A finished or stopped training as one page: what it was, how it went, how good it is."""
