"""A Ray cluster described by a file of `ray up`, used from a machine outside of it."""
