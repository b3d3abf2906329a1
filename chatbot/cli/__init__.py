"""The command line interface (CLI): `chatbot`, or `python run.py` in a checkout."""
