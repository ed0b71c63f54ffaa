"""What crosses between clients and server: messages, codecs, and the sums of what was received."""
