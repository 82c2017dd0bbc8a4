"""Services over HTTP. The only place with async code: around threads that do the work."""
