"""Erasing over HTTP beyond one's own session: receipts, erasure of many sessions, legal holds."""
