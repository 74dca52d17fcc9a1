"""How fast our extractor is beside its peers, measured in one run."""
