"""Spatio-temporal models: one interface, chosen by name."""
