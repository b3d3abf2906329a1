"""What proves that a log was not changed: hash chain, Merkle tree, signed checkpoints, checks of rows."""
