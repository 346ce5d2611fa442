"""What the commands in pipelines/, tuning/ and serve/ share: command line, progress, Ray, pages.

The rest of core imports nothing from here, so that it runs without Ray, without a command line and without jinja2.
"""
