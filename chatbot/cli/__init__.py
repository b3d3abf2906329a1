"""The command line: `chatbot` and `python run.py`."""
