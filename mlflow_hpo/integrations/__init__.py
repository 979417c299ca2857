"""Callbacks for trainers of other frameworks; each needs the extra of its name."""
