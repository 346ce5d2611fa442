"""Ray Serve: the HTTP application and its page (not built yet)."""
