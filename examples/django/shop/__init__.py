"""A shop that sends mail."""
