"""Several model servers behind one provider: which is asked, what happens when it fails, and when it is asked again."""
