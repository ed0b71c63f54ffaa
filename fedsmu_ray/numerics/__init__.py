"""Parameter vectors, elementwise passes over them, and random streams."""
