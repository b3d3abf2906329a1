"""The store of the projections in PostgreSQL: one set of tables for all nodes, kept by one of them."""
