"""Asking teachers for the texts that the store lacks (paper, section 3.2 and equation 1)."""
