"""What a command needs beside its own process: somebody who can end it, and who tells its end."""
