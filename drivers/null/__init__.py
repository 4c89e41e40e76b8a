"""Null ports: what goes there is counted and gone, and nothing ever comes."""
