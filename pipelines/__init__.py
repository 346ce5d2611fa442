"""The commands: classify a folder of slides, train, evaluate, audit, export, draw and classify a demo."""
