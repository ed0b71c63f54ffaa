"""Data sets, their split over the clients, and the copy that a training process works on."""
