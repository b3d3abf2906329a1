"""Files that messages refer to: taken in, resolved, and who may read them."""
