"""How fast our extractor is compared with its peers, measured in one run."""
