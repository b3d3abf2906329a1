"""The record, read: trails, proofs, conversations as they stood, exports. Appends nothing but what erasing records."""
