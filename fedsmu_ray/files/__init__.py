"""Files that outlast a process: locks, private folders, and what must not be written to them."""
