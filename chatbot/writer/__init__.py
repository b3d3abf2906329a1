"""The process that alone writes the log in a file and its projections, for the workers of one machine."""
