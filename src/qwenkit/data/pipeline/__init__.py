"""The corpus pipeline: `corpus.build_corpus` runs the `steps` through the `executor` and closes the `accounting`."""
