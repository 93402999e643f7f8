"""One module a runtime: the neutral graph in what it executes."""
