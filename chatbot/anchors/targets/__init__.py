"""Where anchors are written: a folder, an S3-compatible bucket, a witness."""
