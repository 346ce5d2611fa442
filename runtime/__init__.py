"""What the commands in pipelines/, tuning/ and serve/ share: command line, progress, the Ray connection, pages."""
