"""A packet generator and receiver of our own; README.md says what it measures."""
