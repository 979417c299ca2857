"""Importing: what other tools' settings are in ours. Pure: text in, keys and notes out."""
