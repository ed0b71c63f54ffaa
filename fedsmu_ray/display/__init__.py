"""What is displayed: progress on stderr, results on stdout."""
