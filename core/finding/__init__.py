"""Finding every white cell of a field: a small network, the passes over a picture, and what they found."""
