"""`ringcast demo`: the whole daemon at work on recorded answers."""
