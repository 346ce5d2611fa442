"""Training data: class folders, sources, folds, images in memory, sampling, augmentation."""
