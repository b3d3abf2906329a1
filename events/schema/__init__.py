"""The classes of events and of what they contain: the stored format. Each reserved stream has a union of its own."""
