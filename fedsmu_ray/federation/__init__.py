"""A federation: what is trained, the rounds, and the two sides of a round."""
