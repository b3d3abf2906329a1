"""The record as a library: conversations as of a point in time, their diffs and renderings, model calls, event views.

Reads the log and nothing else; has no command line and no HTTP.
"""
