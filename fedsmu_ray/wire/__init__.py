"""What clients and server exchange: messages, codecs, and accumulators of received messages."""
