"""A finished or stopped training as one page: it renders what a run and its evaluation wrote."""
