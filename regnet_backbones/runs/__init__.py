"""What a training leaves, and what reads it: below both frameworks, knowing neither."""
