"""Commands that erase people."""
