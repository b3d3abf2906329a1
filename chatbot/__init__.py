"""What it does: sessions, model servers, HTTP."""
