"""Searches for events and sessions, by what their envelopes and metadata say."""
