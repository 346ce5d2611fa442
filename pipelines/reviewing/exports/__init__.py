"""What a review gives to training and to other tools: one file per kind of export, and `export`, which makes them."""
