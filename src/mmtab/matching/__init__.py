"""Two tables, or one, become clusters of the same thing: blocking, scoring, clustering, explaining."""
