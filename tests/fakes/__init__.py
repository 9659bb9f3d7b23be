"""Stand-ins for what surrounds the code under test."""
