"""From raw tables to a checked dataset folder in the standard; needs no model."""
