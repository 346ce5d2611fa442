"""Which images show one microscope field: local features, and groups of images that share them."""
