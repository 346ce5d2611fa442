"""For maintainers of Leukoray."""
