"""Online prediction over HTTP, on Ray Serve: the application, its page and the command that runs it."""
