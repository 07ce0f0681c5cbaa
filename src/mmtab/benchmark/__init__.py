"""How fast mmtab is, and how good beside others."""
