"""Providers: request shaping, HTTP, and the process that feeds the in-rings."""
