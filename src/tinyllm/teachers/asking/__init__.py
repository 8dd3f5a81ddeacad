"""Asking teachers for the texts that are missing from the store (paper, section 3.2 and equation 1)."""
