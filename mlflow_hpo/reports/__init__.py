"""Figures and tables made of a finished or running study."""
