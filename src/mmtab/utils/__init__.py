"""What knows nothing of tables: errors, files written whole, locks, the cache on disk, processes, the machine."""
