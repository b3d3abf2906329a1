"""Several worker processes behind one port: the master that supervises them, and what each inherits from it."""
