"""The replay upstream: recorded answers served over HTTP as their providers would."""
