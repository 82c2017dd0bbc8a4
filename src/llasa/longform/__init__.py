"""Books: what is in a file, line by line, said once and kept, and put together as an audiobook."""
