"""Online prediction over HTTP on Ray Serve: the application and its page."""
