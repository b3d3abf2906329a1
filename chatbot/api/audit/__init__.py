"""Requests and answers of the calls for auditors."""
