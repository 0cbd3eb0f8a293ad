"""Damaged images, level by level."""
