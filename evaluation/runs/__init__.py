"""One run, from a line of a plan to a line of results."""
