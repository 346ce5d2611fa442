"""What was reviewed, in the formats of training and of other tools; one module for each."""
