"""Where client tasks run: in this process, or on Ray."""
