"""Commands that erase content, and check that it is gone."""
