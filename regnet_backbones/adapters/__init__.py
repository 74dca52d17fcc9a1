"""One adapter a framework; each is imported when its framework is, and never by another."""
