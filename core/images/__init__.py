"""Images: bytes to pixels, finding the white cell, preparing the input, drawing heatmaps, drawn fields."""
