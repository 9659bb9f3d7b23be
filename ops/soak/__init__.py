"""`ringcast soak`: millions of numbered tokens, while every process's memory is watched."""
