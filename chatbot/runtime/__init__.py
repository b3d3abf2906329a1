"""What the process needs: signals, streams, clocks, background tasks, throttling."""
